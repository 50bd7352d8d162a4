"""Quotas that start over at a fixed moment: so many calls a day or a month.

Periods are found from the calendar of a time zone, by the worker; which of them it is, the store
decides on its own clock. A worker therefore names three boundaries around its own idea of the
time, and a clock that is wrong by less than a period changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

from governor.clock import as_datetime, as_micros

Reset = Literal["day", "month"]

LINE = 10_000
"""Microseconds between the slots promised to those who wait for the next period."""


@dataclass(frozen=True, slots=True)
class Period:
    """A quota's count.

    Attributes:
        end: of the period counted, 0 when none was.
        used: cost units in it.
        ahead: cost units promised for the period after it.
        line: the instant up to which slots are promised to those who wait elsewhere.
    """

    end: int = 0
    used: int = 0
    ahead: int = 0
    line: int = 0

    def at(self, bounds: tuple[int, int, int, int], now: int) -> tuple[Period, int, int]:
        """Return the quota as it stands at ``now``, and its period's start and end."""
        start, end = next(((a, b) for a, b in pairwise(bounds) if now < b), bounds[-2:])
        if self.end == end:
            return self, start, end
        return Period(end, self.ahead if self.end == start else 0, 0, self.line), start, end


def earliest(  # noqa: PLR0917 - the state, the time, and the limit's numbers
    period: Period, bounds: tuple[int, int, int, int], start: int, now: int, cost: int, most: int,
    since: int,
) -> int:  # fmt: skip
    """The first instant, not before ``start``, at which a call of ``cost`` fits.

    In a period that began before the store knew the upstream, the quota grows evenly from then on:
    what was used before is unknown. Of the period after it no more is promised than it has.
    """
    current, begins, ends = period.at(bounds, now)
    if start < ends and current.used + cost <= most:
        grown = since + (current.used + cost) * -(-(ends - begins) // most)
        at = start if since <= begins else max(start, grown)
        if at < ends:
            return at
    if current.ahead + cost <= most:
        return max(start, ends)
    return max(start, next((end for end in bounds if end > ends), 2 * ends - begins))


def push(period: Period, bounds: tuple[int, int, int, int], at: int, now: int, cost: int) -> Period:
    """The quota after a call of ``cost`` was charged at ``at``."""
    current, _, ends = period.at(bounds, now)
    if at >= ends:
        return Period(ends, current.used, current.ahead + cost, current.line)
    return Period(ends, current.used + cost, current.ahead, current.line)


def bounds(reset: Reset, zone: str, wall: int) -> tuple[int, int, int, int]:
    """Four boundaries in microseconds: the start of the period before the one of ``wall``, its own
    start and end, and the end of the one after."""
    moment = as_datetime(wall).astimezone(ZoneInfo(zone))
    return _bounds(reset, zone, (moment.year, moment.month, 1 if reset == "month" else moment.day))


@lru_cache(maxsize=64)
def _bounds(reset: Reset, zone: str, day: tuple[int, int, int]) -> tuple[int, int, int, int]:
    start = datetime(*day, tzinfo=ZoneInfo(zone))
    following = _next(reset, start)
    return (
        as_micros(_start(reset, start - timedelta(hours=1))),
        as_micros(start),
        as_micros(following),
        as_micros(_next(reset, following)),
    )


def _start(reset: Reset, moment: datetime) -> datetime:
    day = 1 if reset == "month" else moment.day
    return moment.replace(day=day, hour=0, minute=0, second=0, microsecond=0, fold=0)


def _next(reset: Reset, start: datetime) -> datetime:
    # On the wall's clock, far enough for the longest day or month and not for two.
    return _start(reset, start + timedelta(days=32 if reset == "month" else 1))
