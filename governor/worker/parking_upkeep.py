"""Upkeep of what a worker was released from the parking lots.

A released task is this worker's for a lease, which it renews. How it ended is told to the lot.
All of it happens on the worker's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from celery.worker.state import active_requests

from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.policy.parking_values import Steering
from governor.worker.event_loop import Loop
from governor.worker.known_lot import KnownLot
from governor.worker.parked_message import End, ParkedMessage
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import StoreOutage

_SAY_LEFT = SECOND // 20
"""The longest an ended task is kept from the lot; it usually goes with the next question."""

MOST_LEFT = 1_000
"""Ended tasks that one question tells."""


class ParkingUpkeep:
    """Upkeep for one worker.

    Args:
        lots: those that it releases from, by upstream.
        want: asks a lot what may go.
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
        self._stats = governor.stats
        self._clock = governor.clock
        self._loop = loop
        self._outage = outage
        self._lots = lots
        self._want = want
        self._saying = False
        self._renewing = False

    def ended(self, message: ParkedMessage, end: End) -> None:
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
                left = tuple(lot.left[:MOST_LEFT])
                if not self._steer(lot, Steering("left", left)):
                    break
                del lot.left[: len(left)]

    def _steer(self, lot: KnownLot, steering: Steering) -> bool:
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
        """Let go of whatever has not begun: it waits again, first of its lane."""
        self._renewing = self._saying = False
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
        self._say_left()

    def flush(self) -> None:
        """Say everything that is left to say; the worker ends."""
        self._say_left()

    def renew_later(self) -> None:
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
            self.renew_later()
            # Nobody else may ask for a long time.
            if self._clock.monotonic() < self._outage.until(lot.upstream.name):
                continue
            try:
                self._store.lots.renew(lot.upstream.name, alive, self._settings.claim_lease)
            except StoreUnavailable as exc:
                self._outage.failed(exc)
            else:
                self._outage.answered(lot.upstream.name)
