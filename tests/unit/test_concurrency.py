"""Leases of a concurrency limit, by tables that can be checked by hand, and their bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.policy import concurrency

# holders and until when, who asks, when there is certainly a lease: two in flight, asked at ten
ASKED = [
    # nobody is there
    ({}, "a", 10),
    # one of two
    ({"b": 20}, "a", 10),
    # both taken: the one that ends first comes free
    ({"b": 20, "c": 30}, "a", 20),
    ({"c": 30, "b": 20}, "a", 20),
    # a lease that has ended, at this instant too, is free
    ({"b": 10, "c": 30}, "a", 10),
    ({"b": 9, "c": 30}, "a", 10),
    # one who has a lease may go on with it
    ({"a": 20, "c": 30}, "a", 10),
    # not once it has ended
    ({"a": 9, "b": 20, "c": 30}, "a", 20),
    ({"a": 10, "b": 20, "c": 30}, "a", 20),
    # more than two, since the limit was made smaller: two must end
    ({"b": 20, "c": 30, "d": 40}, "a", 30),
]


@pytest.mark.parametrize(("holders", "holder", "at"), ASKED)
def test_when_there_is_a_lease(holders: dict[str, int], holder: str, at: int) -> None:
    """A call waits until a lease is sure to be free, which is when one is not renewed."""
    assert concurrency.earliest(holders, 10, 10, holder, 2) == at


def test_a_pause_is_waited_for_too() -> None:
    """A lease that comes free during a pause is there at its end."""
    assert concurrency.earliest({"b": 20, "c": 30}, 25, 10, "a", 2) == 25


# holders and until when, who takes one at ten until forty, holders afterwards
TAKEN = [
    ({}, "a", {"a": 40}),
    # one who had a lease has one, until later
    ({"a": 20}, "a", {"a": 40}),
    # those whose leases have ended are forgotten
    ({"b": 10, "c": 11}, "a", {"a": 40, "c": 11}),
]


@pytest.mark.parametrize(("holders", "holder", "after"), TAKEN)
def test_taking_a_lease(holders: dict[str, int], holder: str, after: dict[str, int]) -> None:
    """A holder has one lease, however often it asks."""
    assert concurrency.taken(holders, 10, holder, 40) == after


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcdef"), st.integers(1, 9))),
)
def test_never_more_in_flight_than_the_limit(most: int, asked: list[tuple[int, str, int]]) -> None:
    """However leases are taken and end, at most so many are held at once."""
    holders: dict[str, int] = {}
    now = 0
    for after, holder, lease in asked:
        now += after
        if concurrency.earliest(holders, now, now, holder, most) == now:
            holders = concurrency.taken(holders, now, holder, now + lease)
        assert sum(until > now for until in holders.values()) <= most
