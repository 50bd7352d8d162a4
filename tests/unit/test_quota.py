"""Calendar quotas, by tables that can be checked by hand, and their bound."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.clock import as_micros
from governor.policy import quota
from governor.policy.quota import Period

HOUR = 3_600_000_000


def wall(text: str, zone: str = "UTC") -> int:
    return as_micros(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


# period, zone, an instant there, the start and the end of the period it lies in
CALENDAR: list[tuple[Literal["day", "month"], str, str, str, str]] = [
    # a day of UTC
    ("day", "UTC", "2026-03-10T12:00", "2026-03-10", "2026-03-11"),
    # its first instant belongs to it
    ("day", "UTC", "2026-03-10T00:00", "2026-03-10", "2026-03-11"),
    # a month, of 28 days and of 31
    ("month", "UTC", "2026-02-28T23:59", "2026-02-01", "2026-03-01"),
    ("month", "UTC", "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
    # a day elsewhere begins elsewhere
    ("day", "America/Los_Angeles", "2026-01-10T00:30", "2026-01-10", "2026-01-11"),
    # the day on which summer time begins, and the one on which it ends
    ("day", "America/Los_Angeles", "2026-03-08T12:00", "2026-03-08", "2026-03-09"),
    ("day", "America/Los_Angeles", "2026-11-01T23:30", "2026-11-01", "2026-11-02"),
    # a day that has no midnight: it begins at one o'clock there
    ("day", "America/Asuncion", "2023-10-01T12:00", "2023-10-01", "2023-10-02"),
]


@pytest.mark.parametrize(("reset", "zone", "moment", "start", "end"), CALENDAR)
def test_the_period_of_an_instant(
    reset: Literal["day", "month"], zone: str, moment: str, start: str, end: str
) -> None:
    """Periods begin at midnight of the zone, whatever the length of the day."""
    before, begins, ends, after = quota.bounds(reset, zone, wall(moment, zone))
    assert (begins, ends) == (wall(start, zone), wall(end, zone))
    assert before < begins < ends < after


# zone, a day there, its hours
LENGTHS = [
    # an ordinary day
    ("America/Los_Angeles", "2026-03-07", 24),
    # an hour is left out in spring and repeated in autumn
    ("America/Los_Angeles", "2026-03-08", 23),
    ("America/Los_Angeles", "2026-11-01", 25),
]


@pytest.mark.parametrize(("zone", "day", "hours"), LENGTHS)
def test_the_length_of_a_day(zone: str, day: str, hours: int) -> None:
    """A day lasts from midnight to midnight on the wall's clock."""
    _, begins, ends, _ = quota.bounds("day", zone, wall(f"{day}T12:00", zone))
    assert (ends - begins) / HOUR == hours


DAYS = (0, 100, 200, 300)
"""Boundaries around an asker in the period from 100 to 200."""

LONG_AGO = -1_000

# what is known, now, cost, when it fits into ten each period
FITS = [
    # nothing is known: nothing was used
    (Period(), 150, 1, 150),
    (Period(200, 9), 150, 1, 150),
    (Period(), 150, 10, 150),
    # used up: when the next period begins
    (Period(200, 10), 150, 1, 200),
    # as far as it is not promised away; then the one after
    (Period(200, 10, 9), 150, 1, 200),
    (Period(200, 10, 9), 150, 2, 300),
    (Period(200, 10, 10), 150, 1, 300),
    # two do not fit into the room of one
    (Period(200, 9), 150, 2, 200),
    # what was used in the period before does not count
    (Period(100, 10), 150, 1, 150),
    # what was promised for this one does
    (Period(100, 10, 10), 150, 1, 200),
    (Period(100, 10, 9), 150, 1, 150),
    # the store's clock is a period ahead of the asker's: the next period counts
    (Period(200, 10), 250, 1, 250),
    (Period(300, 10), 250, 1, 300),
    # whose period after the next is as long as the last one known
    (Period(300, 10, 10), 250, 1, 400),
    # or one behind
    (Period(100, 10), 50, 1, 100),
    # the first instant of a period belongs to it
    (Period(200, 10), 200, 1, 200),
]


@pytest.mark.parametrize(("period", "now", "cost", "at"), FITS)
def test_when_a_call_fits(period: Period, now: int, cost: int, at: int) -> None:
    """A call waits for the next period when this one is used up."""
    assert quota.earliest(period, DAYS, now, now, cost, 10, LONG_AGO) == at


# what is known, now, since when the upstream is known, when a call fits into ten each hundred
UNKNOWN = [
    # known since the middle of the period: one call is there after a tenth of it
    (Period(), 150, 150, 160),
    (Period(), 170, 150, 170),
    # the second, a tenth later
    (Period(200, 1), 160, 150, 170),
    # the tenth lies in the next period: there it fits
    (Period(200, 4), 150, 155, 200),
    # at its first instant too, unless that period is promised away
    (Period(200, 4), 150, 150, 200),
    (Period(200, 4, 10), 150, 150, 300),
    # known since before the period began: nothing is unknown
    (Period(), 150, 100, 150),
    (Period(), 101, 100, 101),
]


@pytest.mark.parametrize(("period", "now", "since", "at"), UNKNOWN)
def test_a_quota_that_was_forgotten(period: Period, now: int, since: int, at: int) -> None:
    """In a period that began before the store knew the upstream, the quota grows evenly."""
    assert quota.earliest(period, DAYS, now, now, 1, 10, since) == at


def test_during_a_pause_the_next_period_counts() -> None:
    """A call that may not start before the next period is not held up by this one, and by the next
    one as soon as that is promised away."""
    assert quota.earliest(Period(200, 10), DAYS, 250, 150, 1, 10, LONG_AGO) == 250
    assert quota.earliest(Period(200, 0, 10), DAYS, 250, 150, 1, 10, LONG_AGO) == 300


# what is known, the slot, now, cost, what is known afterwards
CHARGED = [
    # in this period
    (Period(200, 3), 150, 150, 2, Period(200, 5)),
    # for the next one
    (Period(200, 10), 200, 150, 2, Period(200, 10, 2)),
    # the next one has begun, with what was promised for it
    (Period(200, 10, 2), 250, 250, 1, Period(300, 3)),
    # its first instant belongs to the next period
    (Period(200, 3), 200, 200, 1, Period(300, 1)),
    # two periods on, nothing of it is left
    (Period(100, 10, 2), 250, 250, 1, Period(300, 1)),
    # the line is kept
    (Period(200, 3, 0, 230), 150, 150, 1, Period(200, 4, 0, 230)),
]


@pytest.mark.parametrize(("period", "at", "now", "cost", "after"), CHARGED)
def test_charging(period: Period, at: int, now: int, cost: int, after: Period) -> None:
    """A call counts in the period that its slot lies in."""
    assert quota.push(period, DAYS, at, now, cost) == after


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=60), st.integers(4, 10))
def test_no_period_holds_more_than_the_quota(calls: list[tuple[int, int]], most: int) -> None:
    """In each period calls are at most ``most``, those that waited for it included."""
    period, now = Period(), 100
    made: dict[int, int] = {}
    for after, cost in calls:
        now += after
        begins = now // 100 * 100
        bounds = (begins - 100, begins, begins + 100, begins + 200)
        at = quota.earliest(period, bounds, now, now, cost, most, LONG_AGO)
        if at >= bounds[3]:
            continue  # the next period is promised away: no task is sure of one after it
        period = quota.push(period, bounds, at, now, cost)
        made[at // 100] = made.get(at // 100, 0) + cost
    assert all(used <= most for used in made.values())
