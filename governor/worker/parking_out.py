"""The worker's end of the parking lots: tasks come out of them when they may go.

    a place is free → release (many in one call) → hand to Celery like a message → run
                                                 → acknowledge → told to the lot

There is one timer for each lot, at the next instant at which something may go, or a little later
where something just went, and news: a place of a concurrency limit came free, a limit was raised, a
pause ended, a first task was parked.
Several workers have the same timer. The one that finds something keeps it; one that finds nothing
comes a little later the next time, so that it is not asked in vain and still there when the other
is busy or gone.

A released task is this worker's for a lease, which it renews. All of it happens on the worker's
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from celery.worker.state import active_requests
from celery.worker.state import revoked as revoked_tasks
from kombu.serialization import prepare_accept_content

from governor.admission.lanes import (
    group_of,
    unpack,
)
from governor.clock import SECOND, Clock
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.parking_values import Group, Parking, ReleaseAsk, Released, Steering, Ticket
from governor.policy.upstream import UpstreamDeclaration
from governor.ports import MessageCopy
from governor.worker.adoption import Adoption
from governor.worker.event_loop import Loop, guarded
from governor.worker.parked_message import End, ParkedMessage
from governor.worker.pool import PoolSlots
from governor.worker.request import GovernedRequest
from governor.worker.source_queues import SourceQueues
from governor.worker.store_outage import ASK_AGAIN, StoreOutage

_MOST_AT_ONCE = 100
"""Tasks released by one question."""

_LONGEST_AHEAD = SECOND // 20
"""Microseconds before its slot at which a task is released, at most."""

_MOST_MISSES = 20
"""How many times as late as that a worker comes that finds nothing again and again."""

_EARLY = 1_000
"""Microseconds by which a timer is set later: asked too early, the answer is "not yet"."""

_SAY_LEFT = SECOND // 20
"""The longest an ended task is kept from the lot; it usually goes with the next question."""

_MOST_LEFT = 1_000
"""Ended tasks that one question tells."""

_LOOK = SECOND
"""How often this worker's memory is searched for revoked tasks that may be parked."""


@dataclass(slots=True)
class _Lot:
    """What this worker knows of one upstream's lot.

    Attributes:
        waiting: tasks in it, as far as is known.
        asking: a place in the pool was asked for, to release something into.
        timer: monotonic microseconds of the next question.
        misses: how many times in a row the timer came in vain.
        timed: the next question is the timer's.
        freed, news: see :class:`~governor.policy.parking_values.ReleaseAsk`.
        out: what was released to this worker and has not ended, and the requests made of it.
        silent: of those, the ones that will not end here.
        left: what has ended since the last question.
    """

    upstream: UpstreamDeclaration
    waiting: int = 0
    asking: bool = False
    timer: int | None = None
    misses: int = 0
    timed: bool = False
    freed: set[str] = field(default_factory=set)
    news: bool = False
    out: dict[str, GovernedRequest | None] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)


class ParkingOut:
    """Releases for one worker.

    Args:
        token: names this worker in what it releases.
        pace: how many places are likely to come free within so many microseconds.

    Attributes:
        before_release: called with an upstream's name before its lot is asked.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        places: PoolSlots,
        outage: StoreOutage,
        token: str,
        pace: Callable[[int], int],
    ) -> None:
        self._governor = governor
        self._store = governor.store
        self._settings = governor.settings
        self._stats = governor.stats
        self._clock: Clock = governor.clock
        self._consumer = consumer
        self._loop = loop
        self._places = places
        self._outage = outage
        self._token = token
        self._questions = count()
        self._pace = pace
        self._origins = SourceQueues(consumer)
        self._ahead = min(governor.settings.grace, _LONGEST_AHEAD)
        self._lots = {
            name: _Lot(upstream)
            for name, upstream in governor.upstreams.items()
            if upstream.parking == "store"
        }
        self._groups: dict[tuple[str, int, tuple[str, ...]], tuple[Group, ...]] = {}
        self._accept = prepare_accept_content(  # type: ignore[no-untyped-call]
            consumer.app.conf.accept_content
        )
        self._adoption = Adoption(
            governor, loop, outage, self._origins, self._upstreams_waiting, self._groups_of,
            self._next_token, self._deliver_now,
        )  # fmt: skip
        self._handler: Callable[[Any], None] | None = None
        self.before_release: Callable[[str], None] = lambda _: None
        self._open = False
        self._saying = False
        self._renewing = False
        self._looking = False
        self._revoked: set[str] = set()

    def begin(self) -> None:
        """Celery can take messages from now on."""
        self._handler = self._consumer.create_task_handler()
        self._open = True
        for lot in self._lots.values():
            lot.news = True
            self._want(lot)
        self._adoption.begin()

    def waiting(self, upstream: str) -> int:
        """Tasks in its lot, as far as is known here."""
        return self._lots[upstream].waiting

    def taken_in(
        self, upstream: str, parking: Parking, requests: Iterable[GovernedRequest]
    ) -> None:
        """These requests wait in the lot now."""
        lot = self._lots[upstream]
        lot.waiting = parking.waiting
        for request in requests:
            message = request.message
            # Acknowledging what has moved to another lot takes it out of the one it was in.
            if isinstance(message, ParkedMessage) and message.upstream == upstream:
                lot.out.pop(message.ticket.entry, None)
                message.moved()
        if parking.fresh or lot.timer is None:
            self._want(lot)
        self._look_later()

    # ------------------------------------------------------------------ out of the lot

    def heard(self, upstream: str, what: str) -> None:
        """News of the store; see :meth:`~governor.ports.LimiterStore.listen`."""
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

    def _want(self, lot: _Lot) -> None:
        """Ask what may go, as soon as there is a place for it."""
        if self._open and not lot.asking:
            lot.asking = True
            self._places.acquire(self._has_place, lot)

    def _has_place(self, lot: Any) -> None:
        # Called by Celery's semaphore: nothing may get out.
        lot.asking = False
        try:
            self._release(lot)
        except Exception:
            LOG.exception("Nothing was released from the lot of %s", lot.upstream.name)
            guarded(partial(self._wake, lot, self._clock.monotonic() + ASK_AGAIN))
        self._places.give_back()

    def _release(self, lot: _Lot) -> None:
        # A task that goes back to the front of its lane must be there before the next is let out.
        guarded(partial(self.before_release, lot.upstream.name))
        now = self._clock.monotonic()
        until = self._outage.until(lot.upstream.name)
        if now < until:
            self._wake(lot, until)
            return
        room = min(1 + self._places.free() + self._pace(self._ahead // 2), _MOST_AT_ONCE)
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
            guarded(partial(self._deliver, lot, ticket, ticket.slot + offset))
        if released.tickets:
            self._stats.count(lot.upstream.name, "released", len(released.tickets))
            self._renew_later()
        if released.waiting:
            self._look_later()
        if released.more:
            self._want(lot)
        elif released.next:
            at = released.next
            if at - released.now > self._ahead:
                # Where slots are close to each other, one question lets several go.
                apart = self._ahead // 2 if released.tickets else 0
                at = max(at - self._ahead, released.now + apart)
            late = self._ahead * min(lot.misses, _MOST_MISSES)
            self._wake(lot, at + offset + late + _EARLY)

    def _ask(self, lot: _Lot, room: int) -> tuple[Released, int]:
        """The answer, and what makes monotonic instants of its own."""
        upstream = lot.upstream
        in_force = self._governor.admission.in_force
        for _ in range(3):
            left, freed, news = tuple(lot.left[:_MOST_LEFT]), tuple(lot.freed), lot.news
            asked = self._clock.monotonic()
            released = self._store.lots.release(
                ReleaseAsk(
                    upstream=upstream.name,
                    groups=self._groups_of(upstream),
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
            )
            self._stats.settled()
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
        """The worker consumes other queues than before, and releases what came from those."""
        if self._open:
            for lot in self._lots.values():
                lot.news = True
                self._want(lot)
            self._adoption.queues_changed()

    def _next_token(self) -> str:
        return f"{self._token}.{next(self._questions)}"

    def _upstreams_waiting(self) -> list[UpstreamDeclaration]:
        return [lot.upstream for lot in self._lots.values() if lot.waiting]

    def _deliver_now(
        self, upstream: str, ticket: Ticket, *, adopted: bool = False, unclaimed: str = ""
    ) -> None:
        """Hand over a task that was not released to be run."""
        guarded(
            partial(
                self._deliver, self._lots[upstream], ticket, self._clock.monotonic(),
                adopted=adopted, unclaimed=unclaimed,
            )
        )  # fmt: skip
        self._renew_later()

    def _deliver(
        self, lot: _Lot, ticket: Ticket, slot: int, *, adopted: bool = False, unclaimed: str = ""
    ) -> None:
        """Hand a released message to Celery, as if it came from the broker."""
        lot.out[ticket.entry] = None
        try:
            self._hand_over(lot.upstream.name, ticket, slot, adopted=adopted, unclaimed=unclaimed)
        except Exception:
            LOG.exception("Task %s was released from the lot of %s, and goes back to it",
                           ticket.entry, lot.upstream.name)  # fmt: skip
            # Not renewed: its lease runs out.
            lot.silent.add(ticket.entry)

    def _hand_over(
        self, upstream: str, ticket: Ticket, slot: int, *, adopted: bool, unclaimed: str
    ) -> None:
        made = partial(
            ParkedMessage, upstream=upstream, ticket=ticket, slot=slot, accept=self._accept,
            end=self._ended, adopted=adopted, unclaimed=unclaimed,
        )  # fmt: skip
        try:
            message = made(unpack(ticket.payload))
        except ValueError as exc:
            # Its dead letter has the bytes.
            self._consumer.on_decode_error(made(MessageCopy(ticket.payload, {}, {}, "", "")), exc)
            return
        assert self._handler is not None
        self._handler(message)

    def redeemed(self, request: GovernedRequest) -> None:
        """A request was made of a released message."""
        message = request.message
        self._lots[message.upstream].out[message.ticket.entry] = request

    def _groups_of(self, upstream: UpstreamDeclaration) -> tuple[Group, ...]:
        in_force = self._governor.admission.in_force
        origins = self._origins.all()
        key = (upstream.name, in_force.version(upstream.name), origins)
        groups = self._groups.get(key)
        if groups is None:
            found: dict[str, Group] = {}
            for task in self._governor.app.tasks:
                governance = self._governor.governance(task)
                if governance is None or governance.plan.upstream is not upstream:
                    continue
                plans = [governance.plan]
                if upstream.reserve:
                    plans.append(governance.plan.leaving_reserve())
                for plan in plans:
                    for origin in origins:
                        group = group_of(in_force.plan(plan), origin)
                        found[group.name] = group
            groups = tuple(found.values())
            self._groups = {k: v for k, v in self._groups.items() if k[0] != upstream.name}
            self._groups[key] = groups
        return groups

    # ------------------------------------------------------------------ the ends

    def _ended(self, message: ParkedMessage, end: End) -> None:
        """Acknowledged or rejected; from any thread."""
        self._loop.soon(partial(self._end, message.upstream, message.ticket.entry, end))

    def _end(self, upstream: str, entry: str, end: End) -> None:
        lot = self._lots[upstream]
        if entry not in lot.out:
            return
        del lot.out[entry]
        lot.silent.discard(entry)
        if end == "back":
            self._steer(lot, Steering("back", (entry,)))
            self._want(lot)
            return
        lot.left.append(entry)
        if not self._saying:
            self._saying = True
            self._loop.at(self._clock.monotonic() + _SAY_LEFT, self._say_left)

    def _say_left(self) -> None:
        self._saying = False
        for lot in self._lots.values():
            while lot.left:
                left = tuple(lot.left[:_MOST_LEFT])
                if not self._steer(lot, Steering("left", left)):
                    break
                del lot.left[: len(left)]

    def _steer(self, lot: _Lot, steering: Steering) -> bool:
        if self._outage.on(lot.upstream.name):
            # What has ended is said with the next question; what was released runs out by itself.
            return False
        self._stats.settled()
        try:
            self._store.lots.steer(lot.upstream.name, steering)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            return False
        return True

    def abandon(self, request: GovernedRequest) -> None:
        """It may not end here: unless it does, its lease runs out, and another worker gets it."""
        message = request.message
        if isinstance(message, ParkedMessage):
            self._lots[message.upstream].silent.add(message.ticket.entry)

    def give_back(self) -> None:
        """The worker lets go of whatever has not begun: it waits again, first of its lane."""
        self._open = False
        self._renewing = self._looking = self._saying = False
        self._adoption.stop()
        for lot in self._lots.values():
            lot.asking = False
            lot.timer = None
            idle = [
                entry for entry, request in lot.out.items()
                if request is None or request not in active_requests
            ]  # fmt: skip
            for entry in idle:
                request = lot.out.pop(entry)
                if request is not None:
                    request.message.moved()
            if idle:
                # The last to go back stands in front.
                self._steer(lot, Steering("back", tuple(reversed(idle))))
        self._renew_later()
        self._say_left()

    def flush(self) -> None:
        """Say everything that is left to say; the worker ends."""
        self._say_left()

    # ------------------------------------------------------------------ timers

    def _wake(self, lot: _Lot, moment: int) -> None:
        """Ask again at this moment, if nothing happens before."""
        if lot.timer is None or moment < lot.timer or lot.timer <= self._clock.monotonic():
            lot.timer = moment
            self._loop.at(moment, partial(self._woken, lot, moment))

    def _woken(self, lot: _Lot, moment: int) -> None:
        if lot.timer == moment:
            lot.timer = None
            lot.timed = True
            self._want(lot)

    def _renew_later(self) -> None:
        if not self._renewing:
            self._renewing = True
            lease = self._settings.claim_lease
            self._loop.at(self._clock.monotonic() + lease // 3, self._renew)

    def _renew(self) -> None:
        self._renewing = False
        for lot in self._lots.values():
            alive = tuple(lot.out.keys() - lot.silent)
            if not alive:
                continue
            self._renew_later()
            # Nobody else may ask for a long time.
            if self._clock.monotonic() < self._outage.until(lot.upstream.name):
                continue
            try:
                self._store.lots.renew(lot.upstream.name, alive, self._settings.claim_lease)
            except StoreUnavailable as exc:
                self._outage.failed(exc)
            else:
                self._outage.answered(lot.upstream.name)

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.at(self._clock.monotonic() + _LOOK, self._look_for_revoked)

    def _look_for_revoked(self) -> None:
        """Tasks that were revoked leave the lots: Celery announces them as it does others."""
        self._looking = False
        lots = [lot for lot in self._lots.values() if lot.waiting]
        if not lots:
            return
        self._look_later()
        revoked = set(revoked_tasks)
        fresh = revoked - self._revoked
        # Nobody else may ask for a long time.
        if not fresh:
            return
        found = True
        for lot in lots:
            if self._clock.monotonic() < self._outage.until(lot.upstream.name):
                found = False
                continue
            try:
                taken = self._store.lots.steer(lot.upstream.name, Steering("revoke", tuple(fresh)))
            except StoreUnavailable as exc:
                self._outage.failed(exc)
                found = False
                continue
            self._outage.answered(lot.upstream.name)
            now = self._clock.monotonic()
            for payload in taken:
                ticket = Ticket("", 0, "", payload, 0, late=True)
                guarded(partial(self._deliver, lot, ticket, now))
        if found:
            # Else they are sought again at the next look.
            self._revoked = revoked
