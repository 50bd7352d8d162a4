"""Concurrency: at most so many calls in flight, each with a lease held under a name for a while.

A holder that dies gives its lease back by not renewing it.
"""

from __future__ import annotations

from collections.abc import Mapping


def earliest(holders: Mapping[str, int], start: int, now: int, holder: str, most: int) -> int:
    """Find the first instant, not before ``start``, at which there is certainly a lease to take.

    Args:
        holders: names that hold leases, and until when.
        holder: the name that asks; one that holds a lease already has it.
    """
    alive = sorted(until for until in holders.values() if until > now)
    if holders.get(holder, 0) > now or len(alive) < most:
        return start
    return max(start, alive[len(alive) - most])


def taken(holders: Mapping[str, int], now: int, holder: str, until: int) -> dict[str, int]:
    """List the holders of leases after ``holder`` was given one."""
    return {name: end for name, end in holders.items() if end > now} | {holder: until}
