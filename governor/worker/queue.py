"""Tasks held inside the worker: a heap, and one timer to the earliest instant."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from governor.clock import Clock
from governor.worker.event_loop import Loop


class WaitQueue:
    """Requests that wait for an instant, without a pool place and without a timer each.

    Args:
        release: called on the loop with each request whose time has come.
    """

    def __init__(self, loop: Loop, clock: Clock, release: Callable[[Any], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._release = release
        self._heap: list[tuple[int, int, Any]] = []
        self._number = count()
        self._timer_at: int | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def hold(self, request: Any, until: int) -> None:
        """Release ``request`` at monotonic microseconds ``until``."""
        heapq.heappush(self._heap, (until, next(self._number), request))
        self._set_timer()

    def requests(self) -> list[Any]:
        """Everyone in it, in no order."""
        return [request for _, _, request in self._heap]

    def look(self) -> None:
        """Release those whose time has come; a busy loop may be late with it."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            self._release(heapq.heappop(self._heap)[2])

    def let_out(self, may_go: Callable[[Any], bool], most: int) -> None:
        """Release those who may go before their time, at most ``most``, first come first."""
        for request in self.take(may_go, most):
            self._release(request)

    def take(self, wanted: Callable[[Any], bool], most: int) -> list[Any]:
        """Those that are wanted, at most ``most``, unreleased, first come first."""
        chosen = [entry for entry in self._heap if wanted(entry[2])]
        chosen = sorted(chosen, key=lambda entry: entry[1])[:most]
        if chosen:
            numbers = {entry[1] for entry in chosen}
            self._heap = [entry for entry in self._heap if entry[1] not in numbers]
            heapq.heapify(self._heap)
        return [request for _, _, request in chosen]

    def clear(self) -> list[Any]:
        """Let go of everyone, unreleased."""
        requests = self.requests()
        self._heap.clear()
        return requests

    def _set_timer(self) -> None:
        if self._heap and (self._timer_at is None or self._heap[0][0] < self._timer_at):
            self._timer_at = self._heap[0][0]
            self._loop.at(self._timer_at, self._wake)

    def _wake(self) -> None:
        now = self._clock.monotonic()
        if self._timer_at is not None and self._timer_at <= now:
            self._timer_at = None
        try:
            self.look()
        finally:
            self._set_timer()
