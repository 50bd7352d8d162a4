"""The pace at which slots of the pool come free."""

from __future__ import annotations

from governor.clock import SECOND

_MOST_EXPECTED = 15
"""Slots that are expected within any span, at most: as many admissions are asked for in advance."""


class Pace:
    """A moving average of the time between slots that come free."""

    def __init__(self) -> None:
        self._last = 0
        self._apart = SECOND

    def tick(self, now: int) -> None:
        """Note that a slot was taken at monotonic microseconds ``now``."""
        self._apart = (7 * self._apart + min(now - self._last, SECOND)) // 8
        self._last = now

    def within(self, span: int) -> int:
        """Estimate how many more slots come free within ``span`` microseconds."""
        return min(span // max(self._apart, 1), _MOST_EXPECTED)
