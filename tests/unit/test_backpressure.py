"""Arrivals wait while released tasks get their pool slots late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from governor import Limit, Upstream
from governor.admission.call import Call
from governor.admission.lanes import Lanes
from governor.clock import SECOND
from governor.events import Emitter
from governor.messages.header import Header
from governor.policy.decision import LaneKey
from governor.policy.parking_values import Parking
from governor.policy.plan import CallPlan
from governor.testing.clock import FakeClock
from governor.worker.backpressure import Backpressure
from governor.worker.parking_in import ParkingIn
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop

MILLI = SECOND // 1_000
ENOUGH = 1_000


@pytest.mark.parametrize(
    ("late", "waiting", "since", "pause"),
    [
        # a little late, as of several that are due at once
        (1 * MILLI, ENOUGH, 0, 0),
        # late
        (10 * MILLI, ENOUGH, 0, 20 * MILLI),
        # very late: the broker is emptied all the same
        (10 * SECOND, ENOUGH, 0, 50 * MILLI),
        # too few wait to live of
        (10 * MILLI, ENOUGH - 1, 0, 0),
        # nothing was due for a while
        (10 * MILLI, ENOUGH, 101 * MILLI, 0),
        # early, which no task is, but a clock may be
        (-10 * MILLI, ENOUGH, 0, 0),
    ],
)
def test_arrivals_wait_twice_as_long_as_tasks_are_late(
    late: int, waiting: int, since: int, pause: int
) -> None:
    """Only while tasks are late, others wait to be run, and never for long."""
    backpressure, now = Backpressure(), SECOND
    for _ in range(100):
        backpressure.told(now - late, now)
    assert backpressure.pause(waiting, now + since) == pytest.approx(pause, abs=100)


def test_what_goes_back_does_not_wait() -> None:
    """While arrivals wait, a task that had its turn is put to the front of its lane before the next
    one is let out."""
    clock = FakeClock()
    loop = SimulatedLoop(clock)
    parked: list[str] = []

    def park(_: str, arrivals: Any) -> Parking:
        parked.extend(arrival.task_id for arrival in arrivals)
        return Parking(clock.now, (True,) * len(arrivals), ENOUGH, fresh=False)

    governor = Mock(clock=clock, events=Emitter(), store=Mock(lots=Mock(park=park)))
    pauses = iter([0, 20 * MILLI])
    arrivals = ParkingIn(
        governor, Mock(), loop, StoreOutage(clock, Emitter()), lambda _: next(pauses, 0),
        Mock(), Mock(), Mock(),
    )  # fmt: skip
    plan = CallPlan.of("task", Upstream("api", Limit("10/s")))

    def send(task_id: str, *, had_turn: bool = False) -> None:
        charges = plan.charges((), {})
        lane, name = Lanes(str).of(plan, "celery", [charges[0].bucket], None, 0)
        message = SimpleNamespace(
            body=b"", headers={}, properties={}, delivery_info={}, content_type="application/json",
            content_encoding="utf-8",
        )  # fmt: skip
        request = SimpleNamespace(
            id=task_id, message=message, lane=lane, expires=None, request_dict={}
        )
        key = LaneKey(lane.group, name)
        call = Call(plan, charges, Header(), had_turn=had_turn, lane=key)
        arrivals.park(cast("Any", request), call)

    send("first")
    loop.run_for(0)
    assert parked == ["first"]
    send("new")
    send("back", had_turn=True)
    loop.run_for(0)
    assert parked == ["first"]
    arrivals.take_back("api")
    assert parked == ["first", "back"]
    loop.run_for(21 * MILLI)
    assert parked == ["first", "back", "new"]
