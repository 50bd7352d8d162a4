"""Instants of the store as instants of this process."""

from __future__ import annotations

import pytest

from governor.admission.store_clock import StoreClock

AHEAD = 5_000
"""Microseconds by which this process's clock is ahead of the store's."""


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        # the first answer: it cannot have been given later than it was heard
        (None, 300, AHEAD + 300),
        # a quick answer before it knows better than a slow one
        (100, 300, AHEAD + 100),
        # a quick answer knows better than a slow one before it
        (300, 100, AHEAD + 100),
        # the process stood still for a second before it heard
        (100, 1_000_000, AHEAD + 100),
    ],
)
def test_the_quickest_answer_decides(before: int | None, after: int, added: int) -> None:
    """What is added is as little as any answer allows, and never less than the truth."""
    clock = StoreClock()
    if before is not None:
        clock.offset("api", AHEAD, 0, AHEAD + before)
    assert clock.offset("api", AHEAD + 900, 900, AHEAD + 900 + after) == added


@pytest.mark.parametrize("step", [-3_000_000, 3_000_000])
def test_a_clock_that_is_set_is_believed_at_once(step: int) -> None:
    """After a failover the store's clock may be another: the answer itself bounds the mistake."""
    clock = StoreClock()
    clock.offset("api", AHEAD, 0, AHEAD + 200)
    known = clock.offset("api", AHEAD + 1_000, 1_100 + step, AHEAD + 1_200)
    assert abs(known - (AHEAD - 100 - step + 200)) <= 200


def test_each_upstream_has_its_own() -> None:
    """In a cluster each may be kept by another server."""
    clock = StoreClock()
    clock.offset("api", 0, 0, 10)
    assert clock.offset("other", 0, 0, 500) == 500
