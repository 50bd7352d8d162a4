"""Backpressure on arrivals: running goes before taking in.

A worker that takes messages in as fast as it can has no time left to run what it has released, and
slots are wasted (see makespan in docs/benchmarks.md). So arrivals wait while released tasks get
their pool slots late, and the prefetch window, which the arrivals fill, makes the broker wait.
"""

from __future__ import annotations

from governor.clock import SECOND

_ENOUGH_PARKED = 1_000
"""Tasks in the lot that keep a worker busy for a while; with fewer, arrivals do not wait."""

_USUAL_DELAY_US = SECOND // 500
"""Tasks that are due at once delay each other by no more than that."""

_PAUSE_FACTOR = 2
"""Arrivals wait so many times as long as released tasks are late."""

_LONGEST_PAUSE_US = SECOND // 20

_MEMORY_US = SECOND // 10


class Backpressure:
    """Moving average of how late one worker's released tasks get a pool slot."""

    def __init__(self) -> None:
        self._late = 0
        self._told = 0

    def told(self, slot: int, now: int) -> None:
        """Learn that a task due at ``slot`` has a pool slot ``now``, in monotonic microseconds."""
        self._late = (7 * self._late + max(now - slot, 0)) // 8
        self._told = now

    def pause(self, waiting: int, now: int) -> int:
        """Compute for how many microseconds arrivals wait.

        Args:
            waiting: tasks in their lot.
        """
        if (
            waiting < _ENOUGH_PARKED
            or self._late < _USUAL_DELAY_US
            or now - self._told > _MEMORY_US
        ):
            return 0
        return min(_PAUSE_FACTOR * self._late, _LONGEST_PAUSE_US)
