"""The leaky bucket as a meter: the generic cell rate algorithm, in whole microseconds.

A bucket is one integer, its theoretical arrival time (TAT): the instant at which all that
was poured in has leaked out. A bucket whose TAT is in the past is empty, so a missing
bucket and an idle one are the same thing.

Source: ITU-T Recommendation I.371, Annex A (virtual scheduling algorithm).
"""

from __future__ import annotations


def earliest(tat: int, now: int, interval: int, capacity: int) -> int:
    """The first instant, not before ``now``, at which a call of cost ``interval`` conforms."""
    return max(max(tat, now) + interval - capacity, now)


def pour(tat: int, at: int, interval: int) -> int:
    """The bucket's TAT after a call of cost ``interval`` was charged at ``at``."""
    return max(tat, at) + interval
