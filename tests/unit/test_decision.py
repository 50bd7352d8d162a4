"""The values of questions and answers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from governor.clock import SECOND
from governor.policy.decision import (
    Admit,
    Ask,
    Charge,
    Park,
    QuotaCharge,
    Refuse,
    Reservation,
    Wait,
)

DAY = 86_400 * SECOND


def test_answers_are_compared_by_value() -> None:
    """Two answers are equal when all of them is, and can be kept in a set."""
    assert Admit(1, 2) == Admit(1, 2)
    assert Admit(1, 2) != Admit(1, 2, probe=True)
    assert Wait(1, 2, "s") != Refuse(1, 2, "s")
    assert len({Park(1), Park(1), Park(2)}) == 2
    assert len({Reservation("s", 1, True), Reservation("s", 1, True)}) == 1


def test_questions_can_be_kept_in_a_dictionary() -> None:
    """A question is hashable with all that is in it: it may be remembered with its answer."""
    charge = Charge("s", "10/s", 1, 1)
    asked = {Ask("api", (charge,), 1, 2, 3, 4): "answer"}
    assert asked[Ask("api", (charge,), 1, 2, 3, 4)] == "answer"


def test_a_charge_does_not_change() -> None:
    """Charges are shared between calls."""
    with pytest.raises(FrozenInstanceError):
        Charge("s", "10/s", 1, 1).cost = 2  # type: ignore[misc]


# wall time in days since the epoch and a half, the boundaries in days
DATED = [
    (0.5, (-1, 0, 1, 2)),
    # the first instant of a day
    (1.0, (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("days", "bounds"), DATED)
def test_a_quota_is_dated_by_the_asker(days: float, bounds: tuple[int, int, int, int]) -> None:
    """A quota's charge names the period around the asker's time, the one before and the one
    after; nothing else of it changes."""
    charge = QuotaCharge("q", "5 each day", 5, "day", "UTC", cost=2)
    dated = charge.dated(int(days * DAY))
    assert dated.bounds == tuple(day * DAY for day in bounds)
    assert (dated.most, dated.cost, dated.bucket) == (5, 2, "q")
