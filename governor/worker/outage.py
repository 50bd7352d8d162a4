"""What a worker knows about the limiter store being away."""

from __future__ import annotations

import logging

from governor.clock import SECOND, Clock
from governor.errors import StoreUnavailable

_log = logging.getLogger("governor")

ASK_AGAIN = SECOND
"""How long nobody asks a store that did not answer: each question would block for its timeout."""


class StoreOutage:
    """Says when to ask again, and tells the log once for each outage.

    Attributes:
        until: monotonic microseconds before which the store is not asked.
        on: it did not answer when it was last asked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.on = False
        self.until = 0

    def failed(self, exc: StoreUnavailable) -> None:
        """The store did not answer."""
        self.until = self._clock.monotonic() + ASK_AGAIN
        if not self.on:
            self.on = True
            _log.error("%s Until it does, each upstream's store_down holds", exc)

    def answered(self) -> None:
        """It did."""
        if self.on:
            self.on = False
            _log.warning("The limiter store answers again")
