"""Concurrency: at most so many calls in flight, each place held under a name for a while.

A holder that dies gives its place back by not renewing it.
"""

from __future__ import annotations

from collections.abc import Mapping


def earliest(holders: Mapping[str, int], start: int, now: int, holder: str, most: int) -> int:
    """The first instant, not before ``start``, at which there is certainly a place.

    Args:
        holders: who holds places, and until when.
        holder: who asks; one that holds a place already has it.
    """
    alive = sorted(until for until in holders.values() if until > now)
    if holders.get(holder, 0) > now or len(alive) < most:
        return start
    return max(start, alive[len(alive) - most])


def taken(holders: Mapping[str, int], now: int, holder: str, until: int) -> dict[str, int]:
    """Who holds places after ``holder`` was given one."""
    return {name: end for name, end in holders.items() if end > now} | {holder: until}
