"""Released tasks that come too late for their slots keep their order."""

from __future__ import annotations

import pytest

from governor import Concurrency, Limit, Upstream
from governor.execution.admission import Call
from governor.execution.header import Header
from governor.policy.decision import LaneKey
from governor.policy.plan import CallPlan
from governor.worker.turns import move_up

LANE = LaneKey("group", "lane")


def call(slot: int, lane: LaneKey = LANE, *, settled: bool = True, places: bool = False) -> Call:
    limits = [Limit("10/s"), *([Concurrency(3)] if places else [])]
    plan = CallPlan.of("task", Upstream("api", *limits))
    charges = plan.charges((), {})
    return Call(plan, charges, Header(), slot=slot, settled=settled, lane=lane)


def test_each_takes_the_slot_of_the_next() -> None:
    """The late one goes first, those behind it one slot later each, and the last goes back."""
    late, *others = (call(slot) for slot in (100, 200, 300, 400))
    assert move_up(late, [others[2], others[0], late, others[1]], oldest=150) is others[2]
    assert [late.slot, others[0].slot, others[1].slot] == [200, 300, 400]
    assert [one.settled for one in (late, *others)] == [True, True, True, False]


@pytest.mark.parametrize(
    "other",
    [
        # of another lane
        call(200, LaneKey("group", "another")),
        # it has to ask itself
        call(200, settled=False),
        # late as well
        call(140),
        # it costs something else
        call(200, places=True),
    ],
)
def test_no_other_slot_is_taken(other: Call) -> None:
    """Only slots of its own lane that are still good, for the same charges."""
    late = call(100)
    assert not move_up(late, [other], oldest=150)
    assert late.slot == 100


def test_places_are_not_exchanged() -> None:
    """A place under a concurrency limit is held by name."""
    assert not move_up(call(100, places=True), [call(200, places=True)], oldest=150)
