"""Upkeep of the tasks that were released to a worker: renewed leases, and their ends.

A released task is this worker's for a lease, which it renews. The lot keeps the task until it is
told that the task has ended. All of it happens on the worker's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from celery.worker.state import active_requests

from governor.admission.store_calls import timed
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.policy.parking_values import Steering
from governor.worker.event_loop import Loop, guarded
from governor.worker.known_lot import KnownLot
from governor.worker.parked_message import End, ParkedMessage
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import StoreOutage

_TELL_AFTER_US = SECOND // 20
"""A lot is told so much later that tasks have ended, if no question told it before."""

MOST_LEFT = 1_000
"""Ended tasks that one call tells."""


class ParkingUpkeep:
    """Upkeep for one worker.

    Args:
        lots: those that it releases from, by upstream.
        want: asks a lot what may go now.
    """

    def __init__(
        self,
        governor: Governor,
        loop: Loop,
        outage: StoreOutage,
        lots: Mapping[str, KnownLot],
        want: Callable[[KnownLot], None],
    ) -> None:
        self._store = governor.store
        self._settings = governor.settings
        self._events = governor.events
        self._clock = governor.clock
        self._loop = loop
        self._outage = outage
        self._lots = lots
        self._want = want
        self._telling = False
        self._renew_at: int | None = None

    def ended(self, message: ParkedMessage, end: End) -> None:
        """Note that a released message was acknowledged or rejected; from any thread."""
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
        if not self._telling:
            self._telling = True
            self._loop.at(self._clock.monotonic() + _TELL_AFTER_US, self.flush)

    def flush(self) -> None:
        """Tell the lots which tasks have ended since they were last told."""
        self._telling = False
        for lot in self._lots.values():
            guarded(partial(self._tell_ends, lot))

    def _tell_ends(self, lot: KnownLot) -> None:
        while lot.left:
            left = tuple(lot.left[:MOST_LEFT])
            if not self._steer(lot, Steering("left", left)):
                return
            del lot.left[: len(left)]

    def _steer(self, lot: KnownLot, steering: Steering) -> bool:
        if self._outage.on(lot.upstream.name):
            # Ends are told with the next question; the lease of what goes back runs out.
            return False
        steer = partial(self._store.lots.steer, lot.upstream.name, steering)
        try:
            timed(self._events, self._clock, "steer", steer)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            return False
        return True

    def abandon(self, request: GovernedRequest) -> None:
        """Renew a request's lease no more: unless it ends here, another worker gets its task."""
        message = request.message
        if isinstance(message, ParkedMessage):
            self._lots[message.upstream].silent.add(message.ticket.entry)

    def give_back(self) -> None:
        """Give back whatever has not begun: it waits again, first of its lane."""
        # The timers may be gone with the connection.
        self._renew_at = None
        self._telling = False
        for lot in self._lots.values():
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
        self.renew_later()
        self.flush()

    def renew_later(self) -> None:
        """Renew what is released to this worker, every third of a lease from now on."""
        if self._renew_at is None:
            moment = self._clock.monotonic() + self._settings.claim_lease // 3
            self._renew_at = moment
            self._loop.at(moment, partial(self._renew, moment))

    def _renew(self, moment: int) -> None:
        if self._renew_at != moment:
            return
        self._renew_at = None
        for lot in self._lots.values():
            if alive := tuple(lot.out.keys() - lot.silent):
                self.renew_later()
                guarded(partial(self._renew_of, lot.upstream.name, alive))

    def _renew_of(self, upstream: str, entries: tuple[str, ...]) -> None:
        # After an outage this may be the first call that finds the store back: it does not wait
        # for another one's.
        if self._clock.monotonic() < self._outage.until(upstream):
            return
        try:
            self._store.lots.renew(upstream, entries, self._settings.claim_lease)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
        else:
            self._outage.answered(upstream)
