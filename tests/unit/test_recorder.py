"""What the recorder tells the store of an end, and that a message is let go once it is recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from governor import Breaker, Concurrency, Limit, Upstream
from governor.admission.call import Admission, Call
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.messages.header import Header
from governor.policy.decision import ClaimAsk
from governor.policy.outcome import Outcome
from governor.policy.plan import CallPlan
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Reason
from governor.testing.clock import FakeClock
from governor.worker import recorder as recorder_module
from governor.worker.body_results import RUN_KEY
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.recorder import Recorder
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_worker import Loop

CLAIM = ClaimAsk("t1", 0, "m1", "token", SECOND, SECOND)
PLAIN = Upstream("api", Limit("10/s"))
LEASED = Upstream("api", Limit("10/s"), Concurrency(2))
WATCHED = Upstream("api", Limit("10/s"), breaker=Breaker())
ENDED = RequestState.GONE


class Request(SimpleNamespace):
    """As much of a request as the recorder uses."""

    __hash__ = object.__hash__

    def acknowledge(self) -> None:
        self.steps.append("acknowledged")
        self.acknowledged = True


class World:
    """A recorder, whose store and dead-letter writer write down what they are told.

    Attributes:
        told: the settlements that the store has heard of.
        error: what the store raises instead.
        steps: what happened to the request, in order.
        write: ends the writing of a death.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[Settlement] = []
        self.error: Exception | None = None
        self.steps: list[str] = []
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.outage = StoreOutage(self.clock, Emitter())
        self.renewal = Mock()
        self.writer = Mock()
        self.writer.hold.side_effect = self._hold
        self.write: Any = None
        governor: Any = Mock(clock=self.clock, store=Mock(settle=self._settle), events=Emitter())
        self.governor = governor
        self.recorder = Recorder(
            governor, self.loop, Lifecycle(Mock(), Emitter(), self.clock), self.writer,
            self.renewal, self.outage, Mock(),
        )  # fmt: skip
        monkeypatch.setattr(recorder_module, "task_ready", lambda _: self.steps.append("ready"))

    def request(
        self, upstream: Any = PLAIN, *, ran: bool = True, state: Any = RequestState.RUNNING,
        probe: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        """Make a request with an admitted call."""
        plan = CallPlan.of("task", upstream)
        call = Call(plan, plan.charges((), {}), Header(), holder="token", **options)
        call.admission = Admission(call.leases, probe)
        return Request(
            call=call, state=state, request_dict={RUN_KEY: {}} if ran else {},
            acknowledged=False, steps=self.steps, name="task", id="t1", message=None,
            _context={}, store_errors=True, task=Mock(),
        )  # fmt: skip

    def celery(self) -> None:
        self.steps.append("celery")

    def _settle(self, settlement: Settlement) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(settlement)

    def _hold(self, *death: Any) -> None:
        self.steps.append("written")
        self.write = death[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A recorder of one worker."""
    return World(monkeypatch)


LEAVES = [
    # a body that returned: the breaker hears of it with the next question
    ({"upstream": PLAIN}, {"outcome": Outcome.SUCCESS}, None),
    ({"upstream": WATCHED}, {"outcome": Outcome.SUCCESS}, None),
    # a call that the upstream dropped, with and without a breaker
    ({"upstream": WATCHED}, {"outcome": Outcome.FAILED}, "outcome"),
    ({"upstream": PLAIN}, {"outcome": Outcome.FAILED}, None),
    # a pause
    ({"upstream": PLAIN}, {"pause": SECOND}, "pause"),
    # a probe
    ({"upstream": WATCHED, "probe": True}, {}, "probe"),
    # a lease that is held, or would have been
    ({"upstream": LEASED}, {}, "leases"),
    ({"upstream": LEASED, "admitted": False}, {}, None),
    # a claim: of a body that ran, that did not, and that may have made its call
    ({"upstream": PLAIN, "claim": CLAIM}, {}, "claim"),
    ({"upstream": PLAIN, "claim": CLAIM, "ran": False}, {}, None),
    ({"upstream": PLAIN, "claim": CLAIM}, {"keeps_claim": True}, None),
]


@pytest.mark.parametrize(("made", "ended", "said"), LEAVES)
def test_the_store_hears_what_an_end_leaves(
    world: World, made: dict[str, Any], ended: dict[str, Any], said: str | None
) -> None:
    """One call tells the store what there is to say, and none is made where there is nothing."""
    admitted = made.pop("admitted", True)
    request = world.request(**made)
    if not admitted:
        request.call.admission = None
    world.recorder.settle(request, ClaimAction.FINISH, **ended)
    assert len(world.told) == (said is not None)
    if said is not None:
        assert getattr(world.told[0], said)
        assert world.told[0].action is ClaimAction.FINISH


def test_an_end_is_told_once(world: World) -> None:
    """What an execution held is given back with its first end."""
    request = world.request(LEASED)
    for _ in range(2):
        world.recorder.settle(request, ClaimAction.RELEASE)
    assert len(world.told) == 1
    assert world.renewal.remove.call_args_list[0].args == ("token",)


def test_the_store_hears_later_what_it_has_missed(world: World) -> None:
    """Ends while the store is away are told in their order when it answers again, each once."""
    world.error = StoreUnavailable()
    for pause in (1, 2, 3):
        world.recorder.settle(world.request(), ClaimAction.FINISH, pause)
    world.recorder.catch_up()
    world.error = None
    assert world.told == []
    world.outage.answered("api")
    for _ in range(2):
        world.recorder.catch_up()
    assert [settlement.pause for settlement in world.told] == [1, 2, 3]


def test_an_end_that_cannot_be_told_stops_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected failure is logged and not tried again: what was held runs out by itself."""
    world.error = TypeError()
    world.recorder.settle(world.request(), ClaimAction.FINISH, 1)
    world.error = None
    world.recorder.catch_up()
    assert world.told == []
    assert "not recorded" in caplog.text


def test_a_probe_that_is_not_made_is_given_back_once(world: World) -> None:
    """An admission that is not used lets another request probe the upstream."""
    call = world.request(WATCHED, probe=True).call
    for _ in range(2):
        world.recorder.unused(call)
    assert [settlement.probe for settlement in world.told] == [True]


def test_a_message_is_let_go_whatever_celery_does(world: World) -> None:
    """A request that ended is acknowledged once, also when what Celery does at an end fails."""
    request = world.request()
    world.recorder.finish(request, Mock(side_effect=RuntimeError), world.celery)
    assert world.steps == ["celery", "ready", "acknowledged"]
    world.recorder.finish(request)
    assert world.steps.count("acknowledged") == 1


def test_a_death_is_written_before_anything_follows(world: World) -> None:
    """The row is written; then the claim is finished, then Celery hears of it, and last the message
    is acknowledged."""
    request = world.request(claim=CLAIM)
    world.recorder.bury(request, Reason.NOT_IDEMPOTENT, None, None, world.celery)
    assert (world.steps, world.told) == (["written"], [])
    assert request.state is RequestState.DYING
    world.write()
    assert world.steps == ["written", "celery", "ready", "acknowledged"]
    assert [settlement.claim for settlement in world.told] == [CLAIM]
    assert request.state is ENDED


def test_one_death_however_often_it_is_told(world: World) -> None:
    """Celery reports some deaths twice: one row is written, and what Celery does at each report is
    done, also at one that comes after the end."""
    request = world.request()
    for _ in range(2):
        world.recorder.bury(request, Reason.HARD_TIME_LIMIT, "limit", None, world.celery)
    world.write()
    world.recorder.bury(request, Reason.WORKER_LOST, "lost", None, world.celery)
    assert world.steps == ["written", "celery", "celery", "ready", "acknowledged", "celery"]


def test_a_death_that_cannot_be_handed_over_is_tried_again(world: World) -> None:
    """While its dead letter cannot be made a request stays unacknowledged, and is tried each
    second."""
    fails: Any = [RuntimeError, RuntimeError, None]
    world.writer.hold.side_effect = fails
    request = world.request()
    world.recorder.bury(request, Reason.NOT_IDEMPOTENT, None, None, world.celery)
    world.loop.run_for(3 * SECOND)
    assert world.writer.hold.call_count == 3
    assert world.steps == []


def test_a_task_that_never_ran_has_failed(world: World) -> None:
    """Of a death that Celery does not report itself the task's result says why."""
    request = world.request(ran=False)
    world.recorder.bury(request, Reason.EXPIRED, "too late")
    world.write()
    (task_id, error), _ = request.task.backend.mark_as_failure.call_args
    assert (task_id, str(error)) == ("t1", "expired: too late")
    assert world.steps[-1] == "acknowledged"


def test_a_lease_of_this_workers_own_is_given_back(world: World) -> None:
    """What a task holds while the store is away is given back at its end, though the store is told
    nothing of it."""
    request = world.request(LEASED)
    request.call.admission = None
    world.recorder.settle(request, ClaimAction.FINISH)
    assert world.told == []
    world.governor.admission.settled_without_store.assert_called_once_with(request.call)
