"""A clock that tests move by hand."""

from __future__ import annotations

from governor.clock import SECOND

#: 2026-01-01T00:00:00Z, so that a printed time is readable.
START = 1_767_225_600 * SECOND


class FakeClock:
    """A :class:`governor.clock.Clock` that stands still until it is moved.

    Wall and monotonic time move together. ``sleep`` moves it and returns at once.
    """

    def __init__(self, start: int = START) -> None:
        self.now = start
        self.slept: list[int] = []

    def wall(self) -> int:
        return self.now

    def monotonic(self) -> int:
        return self.now

    def sleep(self, micros: int) -> None:
        self.slept.append(micros)
        self.now += max(0, micros)

    def advance(self, micros: int) -> None:
        """Move the clock by ``micros``, which may be negative: clocks do step."""
        self.now += micros
