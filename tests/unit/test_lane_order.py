"""Tasks that come too late for their slots keep the order of their lane."""

from __future__ import annotations

import pytest

from governor import Concurrency, Limit, Upstream
from governor.execution.admission import Call
from governor.execution.header import Header
from governor.policy.decision import Reservation
from governor.policy.plan import CallPlan
from governor.worker.lane_order import move_up


def call(slot: int, *, charged: bool = True, places: bool = False) -> Call:
    limits = [Limit("10/s"), *([Concurrency(3)] if places else [])]
    plan = CallPlan.of("task", Upstream("api", *limits))
    charges = plan.charges((), {})
    reserved = (Reservation(charges[0].bucket, slot, paid=True),) if charged else ()
    return Call(plan, charges, Header(reserved=reserved), slot=slot, settled=True)


def test_each_takes_the_slot_of_the_next() -> None:
    """The late one goes first, those behind it one slot later each, and the last goes back."""
    late, *others = calls = [call(slot) for slot in (100, 200, 300, 400)]
    assert move_up(late, others, oldest=150) is others[2]
    assert [one.slot for one in calls[:3]] == [200, 300, 400]
    assert [one.header.reserved[0].slot for one in calls[:3]] == [200, 300, 400]
    assert [one.settled for one in calls] == [True, True, True, False]
    assert not others[2].header.reserved


@pytest.mark.parametrize(
    "other",
    [
        # it has no slot: it must ask itself
        call(200, charged=False),
        # late as well
        call(140),
        # it costs something else
        call(200, places=True),
    ],
)
def test_no_other_slot_is_taken(other: Call) -> None:
    """Only slots that are still good, for the same charges."""
    late = call(100)
    assert not move_up(late, [other], oldest=150)
    assert late.slot == 100


def test_places_are_not_exchanged() -> None:
    """A place under a concurrency limit is held by name."""
    assert not move_up(call(100, places=True), [call(200, places=True)], oldest=150)
