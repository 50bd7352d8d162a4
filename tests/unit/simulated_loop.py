"""The worker's loop on a clock that the test moves."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

from governor.testing.clock import FakeClock


class SimulatedLoop:
    """A :class:`governor.worker.event_loop.Loop`: runs what is brought, then what is due, one at a
    time, and moves the clock to it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._brought: deque[Callable[[], None]] = deque()
        self._timed: list[tuple[int, int, Callable[[], None]]] = []
        self._number = count()

    def soon(self, work: Callable[[], None]) -> None:
        self._brought.append(work)

    def at(self, moment: int, work: Callable[[], None]) -> None:
        heapq.heappush(self._timed, (moment, next(self._number), work))

    def here(self) -> bool:
        return True

    def drain(self) -> None:
        """Nothing: the test runs it."""

    def forget(self) -> None:
        """Nothing is due any more."""
        self._timed.clear()

    def turn(self) -> None:
        """Run one thing, whenever it is due."""
        if self._brought:
            self._brought.popleft()()
            return
        moment, _, work = heapq.heappop(self._timed)
        self._clock.now = max(self._clock.now, moment)
        work()

    def run_for(self, micros: int) -> None:
        """Let so much time pass, and run what is due meanwhile."""
        end = self._clock.now + micros
        while self._brought or (self._timed and self._timed[0][0] <= end):
            self.turn()
        self._clock.now = max(self._clock.now, end)
