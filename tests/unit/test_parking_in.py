"""Messages that are parked together, those too large to be parked, and failures on the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from governor import Limit, Upstream
from governor.admission.call import Call
from governor.admission.lanes import Lanes
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.messages.header import Header
from governor.policy.decision import LaneKey
from governor.policy.parking_values import Parking
from governor.policy.plan import CallPlan
from governor.testing.clock import FakeClock
from governor.worker.parking_in import MOST_BYTES, ParkingIn
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop

PLAN = CallPlan.of("task", Upstream("api", Limit("10/s")))


def message(size: int) -> Any:
    return SimpleNamespace(
        body=b"x" * size, headers={}, properties={}, delivery_info={},
        content_type="application/json", content_encoding="utf-8",
    )  # fmt: skip


def arrivals_of(parked: list[int], loop: SimulatedLoop, clock: FakeClock) -> ParkingIn:
    """Arrivals whose store writes down how many tasks each call parks."""

    def park(_: str, arrivals: Any) -> Parking:
        parked.append(len(arrivals))
        return Parking(clock.now, (True,) * len(arrivals), 1, fresh=False)

    governor = Mock(clock=clock, events=Emitter(), store=Mock(lots=Mock(park=park)))
    return ParkingIn(
        governor, Mock(), loop, StoreOutage(clock, Emitter()), lambda _: 0, Mock(), Mock(), Mock()
    )


def park(arrivals: ParkingIn, task_id: str, size: int = 10) -> None:
    """Bring a task with a body of so many bytes."""
    charges = PLAN.charges((), {})
    lane, name = Lanes(str).of(PLAN, "celery", [charges[0].bucket], None, 0)
    request = SimpleNamespace(
        id=task_id, message=message(size), lane=lane, expires=None, request_dict={}
    )
    call = Call(PLAN, charges, Header(), lane=LaneKey(lane.group, name))
    arrivals.park(cast("Any", request), call)


def test_a_call_parks_no_more_bytes_than_the_store_takes_in_time() -> None:
    """Many small messages go in one call, of large ones as few as fit; one goes in any case."""
    clock, parked = FakeClock(), list[int]()
    loop = SimulatedLoop(clock)
    arrivals = arrivals_of(parked, loop, clock)
    third = MOST_BYTES // 3
    for number, size in enumerate([10, 10, third, third, third, MOST_BYTES, 10]):
        park(arrivals, str(number), size)
    loop.run_for(0)
    assert parked == [4, 1, 1, 1]


@pytest.mark.parametrize(
    ("fails", "parked"),
    [
        # the store, in a known and in an unknown way
        ({"park": StoreUnavailable()}, False),
        ({"park": TypeError()}, False),
        # what is told of a lot that has them
        ({"taken_in": TypeError()}, True),
        # what acknowledges the first of them
        ({"parked": [TypeError(), None]}, True),
        # what notes that the store is away
        ({"park": StoreUnavailable(), "failed": TypeError()}, False),
    ],
)
def test_a_failure_loses_no_task_on_its_way(fails: dict[str, Any], parked: bool) -> None:
    """Whatever fails while tasks are parked, each is acknowledged once it is parked, or waits
    elsewhere."""
    clock = FakeClock()
    loop = SimulatedLoop(clock)
    answer = Parking(clock.now, (True, True), 1, fresh=False)
    lots = Mock(park=Mock(return_value=answer, side_effect=fails.get("park")))
    outage = Mock(on=Mock(return_value=False), failed=Mock(side_effect=fails.get("failed")))
    taken_in = Mock(side_effect=fails.get("taken_in"))
    told, elsewhere = Mock(side_effect=fails.get("parked")), Mock()
    governor = Mock(clock=clock, events=Emitter(), store=Mock(lots=lots))
    arrivals = ParkingIn(governor, Mock(), loop, outage, lambda _: 0, taken_in, told, elsewhere)
    for task_id in ("t1", "t2"):
        park(arrivals, task_id)
    loop.run_for(0)
    assert told.call_count == 2 * parked
    assert elsewhere.call_count == 2 * (not parked)


def test_what_is_too_large_waits_in_the_broker() -> None:
    """A message above the size limit has no lane."""
    clock = FakeClock()
    arrivals = arrivals_of([], SimulatedLoop(clock), clock)
    charges = PLAN.charges((), {})
    large = message(MOST_BYTES + 1)
    assert arrivals.lane_of(PLAN, charges, Header(), large, (), {}) is None
