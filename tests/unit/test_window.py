"""The sliding window's arithmetic, by tables that can be checked by hand, and its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.policy import window
from governor.policy.window import Log, Shape

LONG_AGO = -(10**9)
"""Since when the store has known the upstream."""

THREE = Shape.of(3)
SPAN = 10

# calls in the log, now, cost, the first instant at which the call fits into three in any ten
FITS = [
    # nothing has happened
    ((), 5, 1, 5),
    ((), 5, 3, 5),
    # two of three are used
    ((1, 4), 5, 1, 5),
    # all are used: one fits when the oldest has left, ten after it
    ((1, 4, 5), 6, 1, 11),
    # and not a moment before
    ((1, 4, 5), 10, 1, 11),
    ((1, 4, 5), 11, 1, 11),
    # two fit when the two oldest have left, three when all have
    ((1, 4, 5), 6, 2, 14),
    ((1, 4, 5), 6, 3, 15),
    # two do not fit into the room of one
    ((1, 4), 5, 2, 11),
    # a slot that was handed out for later is not overtaken
    ((1, 4, 11), 6, 1, 11),
    ((4, 11, 11), 6, 1, 14),
    ((4, 11), 6, 1, 11),
    # a clock that was set back does not go before the latest call either
    ((8,), 6, 1, 8),
]


@pytest.mark.parametrize(("times", "now", "cost", "at"), FITS)
def test_when_a_call_fits(times: tuple[int, ...], now: int, cost: int, at: int) -> None:
    """A call fits once so many have left the window that it is within the limit."""
    assert window.earliest(Log(times), now, cost, THREE, SPAN, LONG_AGO) == at


# calls in the log, now, cost, since when the upstream is known, when the call fits: three in any
# thirty, evenly spaced one in ten
UNKNOWN = [
    # the store knows it since now: the calls before are unknown, so the first waits its tenth
    ((), 0, 1, 0, 10),
    # the next one, one interval behind
    ((10,), 10, 1, 0, 20),
    # a call of two has two intervals to wait
    ((10,), 10, 2, 0, 30),
    # a span later nothing that was unknown counts any more
    ((10, 20), 30, 1, 0, 30),
    ((25,), 30, 1, 0, 30),
    ((), 30, 3, 0, 30),
]


@pytest.mark.parametrize(("times", "now", "cost", "since", "at"), UNKNOWN)
def test_a_window_that_was_forgotten(
    times: tuple[int, ...], now: int, cost: int, since: int, at: int
) -> None:
    """Until the store has known the upstream for a whole span, calls are spaced evenly."""
    assert window.earliest(Log(times), now, cost, THREE, 30, since) == at


# most, entries of the log, calls in each
SHAPES = [
    # exact up to a thousand
    (1, 1, 1),
    (1_000, 1_000, 1),
    # beyond it, groups of two: five hundred and one do not fill the log
    (1_001, 500, 2),
    (2_000, 1_000, 2),
    # 833 groups of three, one call fewer than declared
    (2_500, 833, 3),
    (10_000_000, 1_000, 10_000),
]


@pytest.mark.parametrize(("most", "entries", "group"), SHAPES)
def test_the_finest_log(most: int, entries: int, group: int) -> None:
    """A log has at most a thousand entries and lets at most one group too few through."""
    assert Shape.of(most) == Shape(entries, group)
    assert most - group < entries * group <= most


PAIRS = Shape(2, 2)

# cost, at, the log's times afterwards, calls in its last group when that is not full
GROUPS = [
    # one call opens a group
    (1, 1, (1,), 1),
    # the second fills it, and it counts from the later one
    (1, 3, (3,), 0),
    # three are a pair and a half
    (3, 5, (3, 5, 5), 1),
    # two more fill the half and open another
    (2, 7, (5, 7, 7), 1),
]


def test_a_log_of_groups() -> None:
    """A group carries the time of its latest call; more groups than the log holds push the oldest
    out."""
    log = Log()
    for cost, at, times, open_ in GROUPS:
        log = window.push(log, at, cost, PAIRS)
        assert log == Log(times[-PAIRS.entries :], open_)


# the log, now, calls that a window of ten which ends now still counts
USED = [
    (Log(), 5, 0),
    # full groups
    (Log((1, 3)), 5, 4),
    # the last one half full
    (Log((1, 3), 1), 5, 3),
    # the first left at eleven
    (Log((1, 3), 1), 11, 1),
    # all have left, the open one with them
    (Log((1, 3), 1), 13, 0),
]


@pytest.mark.parametrize(("log", "now", "used"), USED)
def test_calls_that_still_count(log: Log, now: int, used: int) -> None:
    """A call counts until its span is over, and not at that instant."""
    assert window.used(log, now, PAIRS, SPAN) == used


mosts = st.one_of(st.integers(1, 8), st.integers(1_001, 1_003))
arrivals = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 3)), max_size=60)


@given(mosts, arrivals)
def test_no_span_holds_more_than_the_limit(most: int, calls: list[tuple[int, int]]) -> None:
    """In any span of time calls are at most ``most``, however they arrive and wait."""
    shape, log, now = Shape.of(most), Log(), 0
    scale = max(most // 8, 1)  # fills a large window with few calls
    made: list[tuple[int, int]] = []
    for after, cost in calls:
        now += after
        taken = min(cost * scale, shape.entries * shape.group)
        at = window.earliest(log, now, taken, shape, SPAN, LONG_AGO)
        assert at >= max(now, made[-1][0] if made else now)
        log = window.push(log, at, taken, shape)
        made.append((at, taken))
    for start, _ in made:
        assert sum(cost for at, cost in made if start <= at < start + SPAN) <= most


@given(st.integers(1, 8), arrivals, st.integers(1, 8))
def test_giving_back_restores_exactly(most: int, calls: list[tuple[int, int]], cost: int) -> None:
    """A call that is charged and given back leaves the log as it was, as far as the window that it
    was charged in had room for it."""
    shape, log, now = Shape.of(most), Log(), 0
    for after, each in calls:
        now += after
        log = window.push(log, now, min(each, most), shape)
    taken = min(cost, most)
    kept = log.times[max(len(log.times) + taken - shape.entries, 0) :]
    assert window.pop(window.push(log, now, taken, shape), taken, shape) == Log(kept)
