"""Release from the parking lots: a worker takes tasks out of them when they may go.

    a pool slot is free → release (many in one call) → hand to Celery like a message → run
                                                     → acknowledge → told to the lot

A worker asks a lot at the next instant at which a task may go, or a little later where tasks just
went, and on news: a lease of a concurrency limit came free, a limit was raised, a pause ended, a
first task was parked.
Several workers have the same timer. A worker whose question released a task keeps it; one whose
question released none comes a little later the next time, so that it seldom asks in vain and is
still there when the other is busy or gone.

All of it happens on the worker's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

from governor.admission.store_calls import timed
from governor.clock import SECOND, Clock
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.parking_values import Parking, ReleaseAsk, Released
from governor.policy.upstream import UpstreamDeclaration
from governor.worker.adoption import Adoption
from governor.worker.event_loop import Loop, guarded
from governor.worker.known_lot import KnownGroups, KnownLot
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_delivery import ParkingDelivery
from governor.worker.parking_revocations import ParkingRevocations
from governor.worker.parking_upkeep import MOST_LEFT, ParkingUpkeep
from governor.worker.pool import PoolSlots
from governor.worker.request import GovernedRequest
from governor.worker.source_queues import SourceQueues
from governor.worker.store_outage import ASK_AGAIN, StoreOutage

_MOST_AT_ONCE = 100
"""Tasks released by one question, at most."""

_LONGEST_AHEAD_US = SECOND // 20
"""Microseconds before its slot at which a task is released, at most."""

_MOST_MISSES = 20
"""A worker whose questions release nothing comes later, by at most so many times as long."""

_TIMER_DELAY_US = 1_000
"""Microseconds by which a timer is set later: asked too early, the answer is "not yet"."""


class ParkingOut:
    """Release for one worker.

    Args:
        token: names this worker in the leases of what it releases.
        pace: estimates how many pool slots come free within so many microseconds.

    Attributes:
        before_release: called with an upstream's name before its lot is asked.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        pool_slots: PoolSlots,
        outage: StoreOutage,
        token: str,
        pace: Callable[[int], int],
    ) -> None:
        self._governor = governor
        self._store = governor.store
        self._settings = governor.settings
        self._events = governor.events
        self._clock: Clock = governor.clock
        self._loop = loop
        self._pool_slots = pool_slots
        self._outage = outage
        self._token = token
        self._questions = count()
        self._pace = pace
        self._ahead = min(governor.settings.grace, _LONGEST_AHEAD_US)
        self._lots = {
            name: KnownLot(upstream)
            for name, upstream in governor.upstreams.items()
            if upstream.parking == "store"
        }
        self.before_release: Callable[[str], None] = lambda _: None
        self._open = False
        source_queues = SourceQueues(consumer)
        self._groups = KnownGroups(governor, source_queues)
        self.upkeep = ParkingUpkeep(governor, loop, outage, self._lots, self._want)
        self._delivery = ParkingDelivery(
            consumer, governor.clock, self._lots, self.upkeep.ended, self.upkeep.renew_later
        )
        deliver = self._delivery.deliver_now
        self._revocations = ParkingRevocations(governor, loop, outage, self._lots, deliver)
        self._adoption = Adoption(
            governor, loop, outage, source_queues, self._upstreams_waiting, self._groups.of,
            self._next_token, deliver,
        )  # fmt: skip

    def begin(self) -> None:
        """Release from now on: Celery can take messages."""
        self._delivery.begin()
        self._open = True
        for lot in self._lots.values():
            lot.news = True
            self._want(lot)
        self._adoption.begin()

    def waiting(self, upstream: str) -> int:
        """Count the tasks in an upstream's lot, by its last answer."""
        return self._lots[upstream].waiting

    def taken_in(
        self, upstream: str, parking: Parking, requests: Iterable[GovernedRequest]
    ) -> None:
        """Note that these requests wait in the lot now."""
        lot = self._lots[upstream]
        lot.waiting = parking.waiting
        for request in requests:
            message = request.message
            # One that moved to another lot is acknowledged, which takes it out of the first.
            if isinstance(message, ParkedMessage) and message.upstream == upstream:
                lot.out.pop(message.ticket.entry, None)
                message.moved()
        if parking.fresh or lot.timer is None:
            self._want(lot)
        self._revocations.look_later()

    def heard(self, upstream: str, what: str) -> None:
        """React to news of the store; see :meth:`~governor.ports.LimiterStore.listen`."""
        for name, lot in self._lots.items():
            if upstream not in {"", name}:
                continue
            if what in {"", "change", "lot"}:
                lot.news = lot.news or what != "lot"
                lot.misses = 0
                self._want(lot)
            elif lot.waiting:
                if what != "breaker":
                    lot.freed.add(what)
                self._want(lot)

    def _want(self, lot: KnownLot) -> None:
        """Ask a lot what may go, as soon as there is a pool slot for it."""
        if self._open and not lot.asking:
            lot.asking = True
            self._pool_slots.acquire(self._has_slot, lot)

    def _has_slot(self, lot: Any) -> None:
        # Called by Celery's semaphore: nothing may get out.
        lot.asking = False
        try:
            self._release(lot)
        except Exception:
            LOG.exception("Nothing was released from the lot of %s", lot.upstream.name)
            guarded(partial(self._wake, lot, self._clock.monotonic() + ASK_AGAIN))
        self._pool_slots.give_back()

    def _release(self, lot: KnownLot) -> None:
        # A task that goes back to the front of its lane must be there before the next is let out.
        guarded(partial(self.before_release, lot.upstream.name))
        now = self._clock.monotonic()
        until = self._outage.until(lot.upstream.name)
        if now < until:
            self._wake(lot, until)
            return
        room = min(1 + self._pool_slots.free() + self._pace(self._ahead // 2), _MOST_AT_ONCE)
        try:
            released, offset = self._ask(lot, room)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            self._wake(lot, self._clock.monotonic() + ASK_AGAIN)
            return
        self._outage.answered(lot.upstream.name)
        if released.broken is not None:
            self._outage.failed(released.broken)
        lot.waiting = released.waiting
        if released.tickets or released.more:
            lot.misses = 0
        elif lot.timed:
            lot.misses += 1
        lot.timed = False
        for ticket in released.tickets:
            guarded(partial(self._delivery.deliver, lot, ticket, ticket.slot + offset))
        if released.tickets:
            self.upkeep.renew_later()
        if released.waiting:
            self._revocations.look_later()
        if released.more:
            self._want(lot)
        elif released.next:
            at = released.next
            if at - released.now > self._ahead:
                # Where slots are close to each other, one question lets several go.
                apart = self._ahead // 2 if released.tickets else 0
                at = max(at - self._ahead, released.now + apart)
            late = self._ahead * min(lot.misses, _MOST_MISSES)
            self._wake(lot, at + offset + late + _TIMER_DELAY_US)

    def _ask(self, lot: KnownLot, room: int) -> tuple[Released, int]:
        """Ask a lot; return its answer, and the offset from store time to monotonic time."""
        upstream = lot.upstream
        in_force = self._governor.admission.in_force
        for _ in range(3):
            left, freed, news = tuple(lot.left[:MOST_LEFT]), tuple(lot.freed), lot.news
            asked = self._clock.monotonic()
            ask = ReleaseAsk(
                upstream=upstream.name,
                groups=self._groups.of(upstream),
                room=room,
                ahead=self._ahead,
                lease=self._settings.claim_lease,
                token=self._next_token(),
                version=in_force.version(upstream.name),
                paused=in_force.paused(upstream.name),
                wall=self._clock.wall(),
                left=left,
                freed=freed,
                news=news,
                breaker=upstream.breaker,
                adaptive=upstream.adaptive,
                successes=self._governor.admission.take_successes(upstream.name),
            )
            release = partial(self._store.lots.release, ask)
            released = timed(self._events, self._clock, "release", release)
            del lot.left[: len(left)]
            if not released.stale:
                lot.freed.difference_update(freed)
                lot.news = released.more and news
                return released, self._governor.admission.store_clock.offset(
                    upstream.name, asked, released.now, self._clock.monotonic()
                )
            in_force.refresh(upstream.name)
            lot.news = True
        raise UpstreamStateError(upstream.name, "its limits change faster than they are read")

    def queues_changed(self) -> None:
        """Release what came from the queues that the worker consumes now."""
        if self._open:
            for lot in self._lots.values():
                lot.news = True
                self._want(lot)
            self._adoption.queues_changed()

    def redeemed(self, request: GovernedRequest) -> None:
        """Note that a request was made of a released message."""
        message = request.message
        lot = self._lots[message.upstream]
        if message.ticket.entry in lot.out:
            lot.out[message.ticket.entry] = request

    def _upstreams_waiting(self) -> list[UpstreamDeclaration]:
        return [lot.upstream for lot in self._lots.values() if lot.waiting]

    def _next_token(self) -> str:
        return f"{self._token}.{next(self._questions)}"

    def give_back(self) -> None:
        """Give back whatever has not begun: it waits again, first of its lane."""
        self._open = False
        for lot in self._lots.values():
            lot.asking = False
            lot.timer = None
        self._adoption.stop()
        self._revocations.stop()
        self.upkeep.give_back()

    # ------------------------------------------------------------------ timers

    def _wake(self, lot: KnownLot, moment: int) -> None:
        """Ask again at this moment, unless there is news before."""
        if lot.timer is None or moment < lot.timer or lot.timer <= self._clock.monotonic():
            lot.timer = moment
            self._loop.at(moment, partial(self._woken, lot, moment))

    def _woken(self, lot: KnownLot, moment: int) -> None:
        if lot.timer == moment:
            lot.timer = None
            lot.timed = True
            self._want(lot)
