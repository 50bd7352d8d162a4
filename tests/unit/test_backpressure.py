"""Arrivals wait while released tasks get their pool slots late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

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
MANY = 100_000


def paused(late: int, *, waiting: int = MANY, since: int = 0) -> int:
    """How long arrivals wait when tasks were late by so much all along, the last one ``since``."""
    backpressure, now = Backpressure(), SECOND
    for _ in range(100):
        backpressure.told(now - late, now)
    return backpressure.pause(waiting, now + since)


def test_arrivals_wait_while_tasks_are_late() -> None:
    """The later the tasks, the longer the wait; a worker whose tasks are very late fetches too."""
    not_late, late, later, very_late = map(paused, (0, 10 * MILLI, 15 * MILLI, 10 * SECOND))
    assert not_late == 0 < late < later < very_late < SECOND


def test_arrivals_do_not_wait_for_nothing() -> None:
    """Not when tasks are early, when too few are parked to live of, or when none was due lately."""
    assert paused(-10 * MILLI) == 0
    assert paused(10 * MILLI, waiting=1) == 0
    assert paused(10 * MILLI, since=10 * SECOND) == 0


def test_what_goes_back_does_not_wait() -> None:
    """While arrivals wait, a task that had its turn is put to the front of its lane before the next
    one is let out."""
    clock = FakeClock()
    loop = SimulatedLoop(clock)
    parked: list[str] = []

    def park(_: str, arrivals: Any) -> Parking:
        parked.extend(arrival.task_id for arrival in arrivals)
        return Parking(clock.now, (True,) * len(arrivals), MANY, fresh=False)

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
