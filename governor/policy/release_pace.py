"""How fast a parking lot releases its tasks, counted over ten to twenty seconds."""

from __future__ import annotations

PACE = 10_000_000
"""Microseconds for which released tasks are counted together."""


def paced(pace: tuple[int, int, int], number: int, now: int) -> tuple[int, int, int]:
    """When the present count of released tasks began, it, and the count before it."""
    began, counted, before = pace
    if now - began >= 2 * PACE:
        return now, number, 0
    if now - began >= PACE:
        return began + PACE, number, counted
    return began, counted + number, before


def rate_of(began: int, counted: int, before: int, now: int) -> tuple[int, int]:
    """Tasks released lately, and the microseconds in which they were."""
    passed = now - began
    if passed >= 3 * PACE:
        return 0, PACE
    return counted + before, max(passed + (PACE if before else 0), 1)
