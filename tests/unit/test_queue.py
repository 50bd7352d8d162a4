"""Requests that wait in a worker: which is next, and which are woken by what news."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from governor import Concurrency, Limit, Upstream
from governor.admission.call import Call, WaitsFor
from governor.events import Emitter
from governor.messages.header import Header
from governor.policy.decision import LaneKey, Reservation
from governor.policy.plan import CallPlan
from governor.testing.clock import FakeClock
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.queue import RequestQueue
from tests.unit.simulated_loop import SimulatedLoop

API = CallPlan.of("task", Upstream("api", Limit("10/s"), Concurrency(2)))
MAIL = CallPlan.of("task", Upstream("mail", Limit("10/s")))
(LEASE,) = Call(API, API.charges((), {}), Header()).leases
FAR = 1 << 60


class Request(SimpleNamespace):
    """As much of a request as is looked at."""

    __hash__ = object.__hash__


def request(
    name: str, plan: CallPlan = API, waits_for: WaitsFor | None = None, **options: Any
) -> Any:
    call = Call(plan, plan.charges((), {}), Header(), **options)
    call.waits_for = waits_for
    return Request(
        id=name, name="task", state=RequestState.RECEIVED, call=call, message=None, request_dict={}
    )


class Worker:
    """A queue and a pool whose slots the test gives out."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = SimulatedLoop(self.clock)
        self.slots = Mock()
        lifecycle = Lifecycle(Mock(), Emitter(), self.clock)
        self.queue = RequestQueue(
            self.loop, self.clock, lifecycle, self.slots, Mock(), lambda one, work: work(one)
        )

    def queued(self) -> list[str]:
        return [one.id for one in self.queue.queued()]

    def taken(self) -> list[str]:
        """Take everything that is queued."""
        found = []
        while (one := self.queue.next()) is not None:
            found.append(one.id)
        return found


@pytest.fixture
def worker() -> Worker:
    """A worker with nothing in its queue."""
    return Worker()


def test_slots_do_not_wait(worker: Worker) -> None:
    """Requests that had a slot come before those that had none, each kind in its order; one that
    came back from its body comes first. A pool slot is wanted for each."""
    worker.queue.hold(request("held"), worker.clock.now + 5)
    worker.queue.enter(request("new"))
    worker.queue.enter(request("newer"))
    worker.queue.enter(request("late", had_turn=True))
    worker.queue.enter(request("later", had_turn=True))
    worker.clock.advance(5)
    assert worker.taken() == ["later", "late", "held", "new", "newer"]
    assert worker.slots.acquire.call_count == 5


def test_a_request_that_has_ended_is_passed_over(worker: Worker) -> None:
    """One that was revoked while it was queued takes no pool slot, and one that was revoked while
    it was held is not queued."""
    queued, held = request("queued"), request("held")
    worker.queue.enter(queued)
    worker.queue.hold(held, worker.clock.now + 5)
    queued.state = held.state = RequestState.GONE
    worker.loop.run_for(10)
    assert worker.taken() == []


def test_one_timer_wakes_all(worker: Worker) -> None:
    """Held requests are queued at their instants, however they were brought."""
    for name, after in (("third", 30), ("first", 10), ("second", 20)):
        worker.queue.hold(request(name), worker.clock.now + after)
    worker.loop.run_for(10)
    assert worker.queued() == ["first"]
    worker.loop.run_for(20)
    assert worker.queued() == ["first", "second", "third"]


WOKEN = [
    # a lease came free: one request that waits for it, the first that came
    ("api", LEASE, ["lease 1"]),
    # a probe may be made: those that wait for the breaker, and there are no more than four
    ("api", "breaker", ["breaker 1", "breaker 2", "breaker 3", "breaker 4"]),
    # the limits changed: all of the upstream
    ("api", "change", ["rate", "lease 1", "lease 2", *(f"breaker {n}" for n in range(1, 6))]),
    # news may have been missed, of one upstream and of all
    ("mail", "", ["mail"]),
    ("", "", ["rate", "lease 1", "lease 2", *(f"breaker {n}" for n in range(1, 6)), "mail"]),
    # something was parked, which is no news for held requests
    ("api", "lot", []),
    # of another upstream
    ("slack", "change", []),
]


@pytest.mark.parametrize(("upstream", "what", "woken"), WOKEN)
def test_news_wakes_those_that_wait_for_it(
    upstream: str, what: str, woken: list[str], worker: Worker
) -> None:
    """News of a lease or a breaker wakes as many as may go; a change wakes all, which ask again."""
    worker.queue.hold(request("rate", waits_for=WaitsFor("10/s")), FAR)
    for number in (1, 2):
        waits_for = WaitsFor(LEASE, woken=True)
        worker.queue.hold(request(f"lease {number}", waits_for=waits_for), FAR - number)
    for number in range(1, 6):
        waits_for = WaitsFor("breaker", woken=True)
        worker.queue.hold(request(f"breaker {number}", waits_for=waits_for), FAR - number)
    worker.queue.hold(request("mail", MAIL), FAR)
    for held in worker.queue.held():
        held.call.covered = True
    worker.queue.wake(upstream, what)
    assert worker.queued() == woken
    asks_again = what in {"", "change"}
    assert all(one.call.covered is not asks_again for one in worker.queue.queued())


def test_a_pause_makes_held_requests_ask(worker: Worker) -> None:
    """Held requests of a paused upstream, and only those, do not use their slots unasked."""
    for name, plan in (("api", API), ("mail", MAIL)):
        worker.queue.hold(request(name, plan, covered=True), FAR)
    worker.queue.recall("api")
    assert {one.id: one.call.covered for one in worker.queue.held()} == {"api": False, "mail": True}


def test_what_is_withdrawn_waits_nowhere(worker: Worker) -> None:
    """A request is taken out of whichever place it waits in."""
    there = [request("new"), request("due", had_turn=True), request("held")]
    worker.queue.enter(there[0])
    worker.queue.enter(there[1])
    worker.queue.hold(there[2], FAR)
    for one in there:
        worker.queue.withdraw(one)
    assert worker.queue.queued() == worker.queue.held() == []


def test_companions_are_those_of_the_lane_that_hold_nothing(worker: Worker) -> None:
    """Of a call that is parked, the new requests of its lane go with it, but for one that has a
    reservation to use."""
    lane, other = LaneKey("group", "lane"), LaneKey("group", "other")
    reserving = request("reserving", lane=lane)
    reserving.call.header = Header(reserved=(Reservation("s", 1, paid=True),))
    for one in (request("same", lane=lane), request("other", lane=other), reserving):
        worker.queue.enter(one)
    found = worker.queue.take_companions(request("parked", lane=lane).call)
    assert [one.id for one in found] == ["same"]
    assert worker.queued() == ["other", "reserving"]


def test_a_lost_connection_empties_it(worker: Worker) -> None:
    """All requests are let go at once, and nothing of them is left."""
    worker.queue.enter(request("queued"))
    worker.queue.hold(request("held"), FAR)
    assert {one.id for one in worker.queue.clear()} == {"queued", "held"}
    assert worker.queue.queued() == worker.queue.held() == []
