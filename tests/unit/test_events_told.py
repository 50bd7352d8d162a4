"""Each event of ``docs/events.md`` is told when it says, by a worker whose clock is moved here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from governor import Overloaded
from governor.admission.lease_renewal import LeaseRenewal
from governor.clock import SECOND
from governor.errors import DatabaseUnavailable, StoreUnavailable, UpstreamStateError
from governor.events import (
    Emitter,
    Event,
    LeaseExpired,
    LimitChanged,
    LoadShed,
    StoreAnswered,
    StoreAway,
    StoreBack,
    TaskAdmitted,
    TaskDeferred,
    TaskDied,
    TaskEvent,
    TaskParked,
    TaskRefused,
    TaskReleased,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
    TaskThrottled,
    UpstreamPaused,
)
from governor.policy.decision import Ask, ClaimAsk, Refuse
from governor.policy.limits import Limit
from governor.policy.settlement import ClaimAction, Settlement
from governor.policy.upstream import UpstreamDeclaration
from governor.ports import Change
from governor.producer.load_shedding import LoadShedding
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_worker import SimulatedWorker

_E = TypeVar("_E", bound=Event)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedWorker:
    """A worker whose buckets have their burst."""
    made = SimulatedWorker(tmp_path, monkeypatch)
    made.run_for(10)
    made.heard.clear()
    return made


def of(worker: SimulatedWorker, kind: type[_E], task_id: str | None = None) -> list[_E]:
    found = [event for event in worker.heard if isinstance(event, kind)]
    return [e for e in found if task_id is None or getattr(e, "task_id", None) == task_id]


def kinds(worker: SimulatedWorker, task_id: str) -> list[str]:
    mine = [e for e in worker.heard if isinstance(e, TaskEvent) and e.task_id == task_id]
    return [event.kind for event in mine]


def busy(worker: SimulatedWorker, task: str = "again") -> None:
    """Use up the limit's burst."""
    for _ in range(5):
        worker.send(task, "returns")


def test_a_task_that_runs_at_once(worker: SimulatedWorker) -> None:
    """It is admitted, and succeeds; the store's answer is measured."""
    task_id = worker.send("again", "returns")
    worker.run_for(1)
    assert kinds(worker, task_id) == ["admitted", "succeeded"]
    (admitted,) = of(worker, TaskAdmitted)
    assert (admitted.task, admitted.upstream) == ("again", "api")
    assert (admitted.waited, admitted.deferrals, admitted.limit) == (0, 0, "")
    assert [answered.call for answered in of(worker, StoreAnswered)] == ["admit"]


def test_a_task_that_is_parked(worker: SimulatedWorker) -> None:
    """It is parked, released and admitted, and says for how long it waited, and for which limit."""
    busy(worker)
    task_id = worker.send("again", "returns")
    worker.run_for(2)
    told = kinds(worker, task_id)
    assert [kind for kind in told if kind != "held"] == [
        "parked", "released", "admitted", "succeeded",
    ]  # fmt: skip
    first = of(worker, TaskParked)[0]
    assert (first.limit, first.deferrals) == ("50/s", 1)
    assert first.until > first.at
    (released,) = of(worker, TaskReleased, task_id)
    (admitted,) = of(worker, TaskAdmitted, task_id)
    assert 0 < released.waited <= admitted.waited < SECOND
    assert admitted.deferrals == 1
    # What was asked about knows its limit; what follows in its lane was not asked.
    assert of(worker, TaskAdmitted, first.task_id)[0].limit == "50/s"
    calls = Counter(answered.call for answered in of(worker, StoreAnswered))
    assert {"park", "release", "steer"} <= calls.keys()


def test_a_task_that_is_deferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream without a parking lot has its tasks published again; there is no burst yet."""
    worker = SimulatedWorker(tmp_path, monkeypatch)
    for _ in range(8):
        worker.send("deferred", "returns")
    worker.run_for(5)
    deferred = of(worker, TaskDeferred)
    assert deferred
    assert all(event.limit and event.until >= event.at for event in deferred)
    (admitted,) = of(worker, TaskAdmitted, deferred[0].task_id)
    assert admitted.limit
    assert admitted.deferrals >= 1
    assert len(of(worker, TaskSucceeded)) == 8


def test_a_task_that_is_throttled(worker: SimulatedWorker) -> None:
    """The upstream's "not now" is told, and the pause that it made."""
    task_id = worker.send("again", "throttled")
    worker.run_for(3)
    (throttled,) = of(worker, TaskThrottled)
    assert (throttled.task_id, throttled.wait, throttled.throttles) == (task_id, SECOND // 2, 1)
    (paused,) = of(worker, UpstreamPaused)
    assert paused.until - paused.at == SECOND // 2
    assert kinds(worker, task_id)[-1] == "succeeded"


def test_a_task_that_fails_and_is_tried_again(worker: SimulatedWorker) -> None:
    """The failed attempt says how long the next one waits."""
    worker.send("again", "tries again")
    worker.run_for(3)
    (retried,) = of(worker, TaskRetried)
    assert (retried.attempt, retried.wait, retried.http_status) == (0, SECOND // 2, 0)
    assert [admitted.attempt for admitted in of(worker, TaskAdmitted)] == [0, 1]


def test_a_task_that_dies(worker: SimulatedWorker) -> None:
    """The death is told once its row is written."""
    task_id = worker.send("again", "fails")
    worker.run_for(2)
    (died,) = of(worker, TaskDied)
    assert (died.task_id, died.reason, died.exc_type, died.written) == (
        task_id, "not_retryable", "ValueError", "database",
    )  # fmt: skip


def test_a_death_that_the_database_does_not_take(
    worker: SimulatedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as written to disk."""

    def away(_: Any) -> str:
        raise DatabaseUnavailable

    monkeypatch.setattr(worker.rows, "record", away)
    worker.send("again", "fails")
    worker.run_for(2)
    assert [died.written for died in of(worker, TaskDied)] == ["disk"]


def claimed(worker: SimulatedWorker, action: ClaimAction | None) -> str:
    """Send a message that another worker has claimed, and perhaps ended; its task's id."""
    claim = ClaimAsk("once-returns-0", 0, "m", "another", SECOND, 3600 * SECOND)
    worker.store.admit(Ask("api", (), 0, 0, 0, 0, claim=claim))
    if action is not None:
        worker.store.settle(Settlement("api", "another", action, claim))
    worker.clock.advance(2 * SECOND)
    task_id = worker.send("once", "returns", governor={"v": 1, "mid": "m"})
    worker.run_for(1)
    return task_id


def test_a_second_delivery_of_a_message_that_ran_is_dropped(worker: SimulatedWorker) -> None:
    """The event says which."""
    assert kinds(worker, claimed(worker, ClaimAction.FINISH)) == ["dropped"]


def test_a_claim_whose_worker_died_is_lost(worker: SimulatedWorker) -> None:
    """The next delivery finds it over: its dead letter follows."""
    assert kinds(worker, claimed(worker, None)) == ["claim_lost", "dead"]


def test_a_slot_beyond_max_wait_is_refused(
    worker: SimulatedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the limit and the wait, before the death."""

    def refuse(_: object) -> list[Refuse]:
        return [Refuse(SECOND, 8 * SECOND, "50/s")]

    monkeypatch.setattr(worker.store, "admit_many", refuse)
    task_id = worker.send("again", "returns")
    worker.run_for(1)
    assert kinds(worker, task_id) == ["refused", "dead"]
    (refused,) = of(worker, TaskRefused)
    assert (refused.wait, refused.limit) == (7 * SECOND, "50/s")


def test_a_started_body_says_how_late_it_is(worker: SimulatedWorker) -> None:
    """Celery hears from the pool when it began; the slot is that of its admission."""
    request: Any = SimpleNamespace(id="one", name="again")
    request.call = SimpleNamespace(upstream="api", slot=5 * SECOND)
    worker.dispatcher.handover.started(request, 5.02)
    (started,) = of(worker, TaskStarted)
    assert (started.task_id, started.late) == ("one", 20_000)


def test_a_changed_limit_is_told_once_it_is_read(worker: SimulatedWorker) -> None:
    """The next decision reads it."""
    worker.store.change(Change("api", "set", "50/s", '{"rate": [100, 1]}', "ann", "agreed"))
    worker.send("again", "returns")
    worker.run_for(1)
    assert [(e.upstream, e.version, e.changed) for e in of(worker, LimitChanged)] == [("api", 1, 1)]


def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    """One for all upstreams, one for one of them; a question more changes nothing."""
    clock, events, heard = FakeClock(0), Emitter(), list[Event]()
    events.listen(heard.append)
    outage = StoreOutage(clock, events)
    for _ in range(2):
        outage.failed(StoreUnavailable())
    clock.advance(3 * SECOND)
    outage.answered("api")
    for _ in range(2):
        outage.failed(UpstreamStateError("api", "garbage"))
    clock.advance(SECOND)
    outage.answered("api")
    assert heard == [
        StoreAway(0, "", "StoreUnavailable"), StoreBack(3 * SECOND, "", 3 * SECOND),
        StoreAway(3 * SECOND, "api", "UpstreamStateError"), StoreBack(4 * SECOND, "api", SECOND),
    ]  # fmt: skip


def test_the_end_of_an_outage_makes_the_upstreams_known_again() -> None:
    """A store that came back empty is seen by its answer."""
    outage, called = StoreOutage(FakeClock(), Emitter()), list[int]()
    outage.back = lambda: called.append(1)
    outage.failed(StoreUnavailable())
    outage.answered("api")
    outage.answered("api")
    assert called == [1]


def test_a_lease_that_ran_out_is_told_once() -> None:
    """Its holder hears of it at the next renewal; one that has ended since has lost nothing."""
    clock, events, heard = FakeClock(0), Emitter(), list[Event]()
    events.listen(heard.append)
    store = MemoryStore(clock.wall)
    renewal = LeaseRenewal(store, clock, events)
    lost = Settlement("api", "me", ClaimAction.RENEW, None, ("in-flight",), SECOND)
    renewal.add(lost)
    for moment in (SECOND, 2 * SECOND):
        renewal.renew(moment)
    renewal.remove("me")
    renewal.renew(3 * SECOND)
    renewal.rest()
    assert heard == [LeaseExpired(0, "api", "me")]


def test_load_that_is_shed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer's process hears of each task that was not published."""
    clock, events, heard = FakeClock(0), Emitter(), list[Event]()
    events.listen(heard.append)
    store = MemoryStore(clock.wall)
    monkeypatch.setattr(store.lots, "waiting", lambda _: (7, 0, 0))
    shedding = LoadShedding(store, clock, events)
    with pytest.raises(Overloaded):
        shedding.check(UpstreamDeclaration("api", Limit("10/s"), max_waiting=5), "charge")
    assert heard == [LoadShed(0, "api", "charge", 7, "max_waiting")]
