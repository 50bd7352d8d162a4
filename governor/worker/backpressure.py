"""Running goes before taking in.

A worker that takes messages in as fast as it can has no time left to run what it has released, and
slots come to nothing (see makespan in docs/benchmarks.md). So arrivals wait while released tasks
come late to their places, and the prefetch window, which they fill, makes the broker wait.
"""

from __future__ import annotations

from governor.clock import SECOND

_ENOUGH = 1_000
"""Tasks in the lot, of which a worker that takes in less may live for a while."""

_USUAL = SECOND // 500
"""Several that are due at once wait for each other no longer than that."""

_TIMES = 2
"""How many times as long arrivals wait as tasks are late."""

_LONGEST = SECOND // 20

_LATELY = SECOND // 10


class Backpressure:
    """How late tasks of one worker come to their places, lately."""

    def __init__(self) -> None:
        self._late = 0
        self._told = 0

    def told(self, slot: int, now: int) -> None:
        """A task whose slot was at ``slot`` has a place ``now``, in monotonic microseconds."""
        self._late = (7 * self._late + max(now - slot, 0)) // 8
        self._told = now

    def pause(self, waiting: int, now: int) -> int:
        """Microseconds for which arrivals wait.

        Args:
            waiting: tasks in their lot.
        """
        if waiting < _ENOUGH or self._late < _USUAL or now - self._told > _LATELY:
            return 0
        return min(_TIMES * self._late, _LONGEST)
