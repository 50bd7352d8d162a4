"""Lateness of bodies in this worker, and how much of it is allowed for.

Between the decision that a task may run and the first line of its body lie the way into the pool,
decoding, handlers of ``task_prerun``, sometimes the start of a process. Where that takes longer
than the grace every time, every task would be handed over twice.
"""

from __future__ import annotations

from governor.clock import SECOND
from governor.log_lines import LOG

_MOST_LEARNED = SECOND
"""Microseconds that are allowed for at most."""

_HALVED_AFTER = 30 * SECOND
"""Microseconds without a late start after which half as much is allowed for."""

REMEDY = (
    "Look for slow task_prerun handlers, large arguments and a loaded host, or raise governor_grace"
)


class Lateness:
    """Allowance for late bodies, learned from each that came too late.

    Args:
        grace: microseconds after its slot at which a body may start in any case.
    """

    def __init__(self, grace: int) -> None:
        self._grace = grace
        self._learned = 0
        self._learned_at = 0
        self._starts = 0
        self._last = 0

    def allowed(self, now: int) -> int:
        """Say how many microseconds after it was handed over, at monotonic microseconds ``now``, a
        body may start though the grace of its slot is over; 0 while none came too late."""
        halvings = (now - self._learned_at) // _HALVED_AFTER
        return self._learned >> min(halvings, 30)

    def saw(self, late: int, way: int, now: int) -> None:
        """Learn from a body that came too late: ``late`` microseconds after its slot, and ``way``
        after it was handed over."""
        # Half as much again: the next one may take a little longer.
        self._learned = max(min(way + way // 2, _MOST_LEARNED), self.allowed(now))
        self._learned_at = now
        self._starts += 1
        self._last = late
        if self._starts == 1:
            LOG.warning("Worker starts are late: %d ms, grace %d ms. %s",
                         late // 1_000, self._grace // 1_000, REMEDY)  # fmt: skip

    def told(self) -> dict[str, int]:
        """Report to people: the grace, how many bodies came too late, and how late the last of them
        was, in microseconds after its slot."""
        return {"grace": self._grace, "starts": self._starts, "last": self._last}
