"""The leaky bucket's arithmetic, by tables that can be checked by hand, and its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.policy import gcra
from governor.policy.adjustment import Adjustment, bucket
from governor.policy.decision import Charge

CALL = 100_000
"""Ten calls a second: one leaks out in a tenth."""


class TenASecond:
    """A bucket of ten calls a second, empty at first, with its times in tenths of a second."""

    def __init__(self, burst: int) -> None:
        self.capacity = burst * CALL
        self.tat = 0

    def earliest(self, now: int, cost: int) -> int:
        at = gcra.earliest(self.tat, now * CALL, cost * CALL, self.capacity)
        assert at % CALL == 0
        return at // CALL

    def allows(self, now: int, cost: int) -> bool:
        """Charge the call if it conforms now."""
        allowed = self.earliest(now, cost) == now
        if allowed:
            self.tat = gcra.pour(self.tat, now * CALL, cost * CALL)
        return allowed

    def reserves(self, now: int, cost: int) -> int:
        """Charge the call at the first instant at which it conforms."""
        at = self.earliest(now, cost)
        self.tat = gcra.pour(self.tat, at * CALL, cost * CALL)
        return at


# tenths of a second, cost, whether it goes now
ONE_AT_ONCE = [
    # the first goes
    (0, 1, True),
    # nothing is left, however often it is asked
    (0, 1, False),
    (0, 1, False),
    # a tenth later there is one again, and only one
    (1, 1, True),
    (1, 1, False),
    # two at once never fit into a bucket of one
    (2, 2, False),
    # which took nothing
    (2, 1, True),
    (2, 1, False),
    # a long silence saves up nothing beyond the one
    (50, 1, True),
    (50, 1, False),
]

THREE_AT_ONCE = [
    # two of three
    (0, 2, True),
    # a pair does not fit into the third's room, a single call does
    (0, 2, False),
    (0, 1, True),
    (0, 1, False),
    # one leaks out in a tenth
    (1, 1, True),
    (1, 1, False),
    # four are more than the bucket ever holds
    (9, 4, False),
    # after a silence there are three again
    (9, 3, True),
    (9, 1, False),
    # half way to two: only one of them is there
    (10, 2, False),
    (11, 2, True),
]

CLOCK_SET_BACK = [
    # at one tenth, one of three
    (1, 1, True),
    # set back to zero, the bucket leaks out a tenth later: one fits instead of two
    (0, 1, True),
    (0, 1, False),
    # at one tenth again, one
    (1, 1, True),
    (1, 1, False),
    (2, 1, True),
    (2, 1, False),
]


@pytest.mark.parametrize(
    ("burst", "calls"), [(1, ONE_AT_ONCE), (3, THREE_AT_ONCE), (3, CLOCK_SET_BACK)]
)
def test_calls_that_do_not_wait(burst: int, calls: list[tuple[int, int, bool]]) -> None:
    """A call goes now or takes nothing."""
    bucket_ = TenASecond(burst)
    assert [(now, cost, bucket_.allows(now, cost)) for now, cost, _ in calls] == calls


# tenths of a second, cost, the tenth at which it may go
TWO_AT_ONCE = [
    # the burst
    (0, 2, 0),
    # the next pair when both have leaked out
    (0, 2, 2),
    # a single call stands behind the pair
    (0, 1, 3),
    # later askers too, however small
    (2, 1, 4),
    # a silence until all has leaked out, and one tenth more
    (6, 2, 6),
    (6, 1, 7),
]

ONE_BEHIND_THE_OTHER = [
    # with a burst of one, slots are one interval apart
    (0, 1, 0),
    (0, 1, 1),
    (0, 1, 2),
    # a slot that is over is not made up for
    (9, 1, 9),
    (9, 1, 10),
]


@pytest.mark.parametrize(("burst", "calls"), [(2, TWO_AT_ONCE), (1, ONE_BEHIND_THE_OTHER)])
def test_calls_that_wait_for_their_slot(burst: int, calls: list[tuple[int, int, int]]) -> None:
    """A call is charged at the first instant at which it conforms, behind those before it."""
    bucket_ = TenASecond(burst)
    assert [(now, cost, bucket_.reserves(now, cost)) for now, cost, _ in calls] == calls


def test_an_idle_bucket_and_a_missing_one_are_the_same() -> None:
    """A TAT in the past is worth as much as none."""
    assert gcra.earliest(0, 5 * CALL, CALL, CALL) == gcra.earliest(5 * CALL, 5 * CALL, CALL, CALL)


intervals = st.integers(1, 5 * CALL)
calls_made = st.lists(st.tuples(st.integers(0, 3 * CALL), st.integers(1, 4)), max_size=40)


@given(intervals, st.integers(1, 6), calls_made)
def test_no_window_holds_more_than_burst_and_rate(
    interval: int, burst: int, calls: list[tuple[int, int]]
) -> None:
    """In any span of time calls are at most burst + rate × span, however they arrive and wait."""
    capacity = max(burst, 4) * interval
    tat = now = 0
    made: list[tuple[int, int]] = []
    for after, cost in calls:
        now += after
        at = gcra.earliest(tat, now, cost * interval, capacity)
        assert at >= now
        tat = gcra.pour(tat, at, cost * interval)
        made.append((at, cost * interval))
    for first, (start, _) in enumerate(made):
        taken = 0
        for at, cost in made[first:]:
            taken += cost
            assert taken <= capacity + at - start


@given(intervals, st.integers(1, 6), calls_made)
def test_no_call_waits_longer_than_it_must(
    interval: int, burst: int, calls: list[tuple[int, int]]
) -> None:
    """A microsecond earlier the bucket would have been over its brink."""
    capacity = max(burst, 4) * interval
    tat = now = 0
    for after, cost in calls:
        now += after
        at = gcra.earliest(tat, now, cost * interval, capacity)
        if at > now:
            assert max(tat, at - 1) + cost * interval - (at - 1) > capacity
        tat = gcra.pour(tat, at, cost * interval)


@given(st.integers(0, CALL), st.integers(0, CALL), st.integers(1, 20))
def test_giving_back_restores_exactly(ahead: int, now: int, calls: int) -> None:
    """Calls that are charged and given back, at one instant or later, leave the bucket as it was;
    an empty one is as good as one that was just emptied."""
    charge = Charge("s", "10/s", CALL, 5 * CALL)
    before = now + ahead
    after = bucket(before, Adjustment(charge, more=calls), charge, now)
    assert after == before + calls * CALL
    assert bucket(after, Adjustment(charge, more=-calls), charge, now + CALL) == before
