"""The worker's end of the parking lots: when it asks what may leave, and how it goes on after the
store was away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from governor.admission.lanes import Lanes, group_of
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.messages.message import pack
from governor.policy.parking_values import Arrival, ReleaseAsk, Released, Steering
from governor.policy.settlement import Settlement
from governor.ports import MessageCopy
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker import parking_revocations
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_out import ParkingOut
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop
from tests.unit.simulated_worker import SimulatedWorker

AHEAD = SECOND // 20
HOUR = 3600 * SECOND


class Worker:
    """The lots of a worker whose pool slots are always free.

    Attributes:
        handed: the ids of the tasks it hands to Celery.
        early: microseconds before its slot at which each of them was released.
        asked: how many questions there were.
    """

    def __init__(self, rate: int, slots: int) -> None:
        self.handed: list[str] = []
        self.early: list[int] = []
        self.asked = 0
        self.clock = FakeClock()
        self.loop = SimulatedLoop(self.clock)
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery("lots", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://unused"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        upstream = Upstream("api", Limit(f"{rate}/s", burst=1))

        @self.app.task(shared=False, base=GovernedTask, upstream=upstream, name="call")
        def call() -> None: ...

        governance = self.governor.governance("call")
        assert governance is not None
        self._plan = governance.plan
        self._release = self.store.lots.release
        self.store.lots.release = self._counted  # type: ignore[method-assign]
        consumer = self.consumer = Mock(app=self.app)
        consumer.create_task_handler.return_value = self._handle
        free: Any = Mock(free=Mock(return_value=slots - 1))
        free.acquire = lambda occupant, lot: occupant(lot)
        outage = StoreOutage(self.clock, Emitter())
        self.lots = ParkingOut(self.governor, consumer, self.loop, free, outage, "w", lambda _: 0)
        self.store.settle(Settlement("api"))
        self.clock.advance(HOUR)
        self.lots.begin()

    def park(self, *task_ids: str, payload: bytes | None = None) -> None:
        lane, _ = Lanes(str).of(self._plan, "celery", ["s"], None, 0)
        arrivals = []
        for task_id in task_ids:
            copy = MessageCopy(
                json.dumps([[], {}, {}]).encode(), {"id": task_id, "task": "call"},
                {"content_type": "application/json", "content_encoding": "utf-8"}, "", "celery",
            )  # fmt: skip
            packed = pack(copy)
            assert packed is not None
            arrivals.append(Arrival(task_id, lane, (1,), payload or packed))
        self.lots.taken_in("api", self.store.lots.park("api", arrivals), [])

    def taken_by_others(self) -> list[str]:
        """What another worker would be given: the leases that ran out among them."""
        groups = (group_of(self._plan, "celery"),)
        asked = ReleaseAsk("api", groups, 9, 0, SECOND, "other")
        return [ticket.entry for ticket in self.store.lots.release(asked).tickets]

    def _counted(self, ask: ReleaseAsk) -> Released:
        self.asked += 1
        return self._release(ask)

    def _handle(self, message: ParkedMessage) -> None:
        self.handed.append(message.headers["id"])
        self.early.append(message.slot - self.clock.now)


@pytest.fixture
def make_worker() -> Iterator[Callable[..., Worker]]:
    """Makes workers of an upstream with so many calls a second."""
    made: list[Worker] = []

    def make(rate: int, slots: int = 1) -> Worker:
        made.append(Worker(rate, slots))
        return made[-1]

    yield make
    for worker in made:
        worker.app.close()


def away(*_: Any) -> None:
    raise StoreUnavailable


def test_slots_that_are_close_go_with_one_question(make_worker: Callable[..., Worker]) -> None:
    """At a high rate a worker asks at most once in half of the time by which tasks are let out
    before their slots, and none of them comes later than that."""
    rate = 1_000
    worker = make_worker(rate, slots=rate)
    before = worker.asked
    worker.park(*map(str, range(rate)))
    worker.loop.run_for(SECOND // 2)
    assert len(worker.early) >= rate // 2
    assert worker.asked - before <= 1 + SECOND // AHEAD
    # Nobody was asked before about the first ones, whose slots are within this time.
    assert min(worker.early[AHEAD * rate // SECOND :]) >= AHEAD // 2


def test_who_finds_something_asks_in_time(make_worker: Callable[..., Worker]) -> None:
    """A worker with few pool slots asks several times in a row, the last time in vain. It asks
    again before the next slot, so that none is lost."""
    worker = make_worker(100, slots=3)
    worker.park(*map(str, range(100)))
    worker.loop.run_for(SECOND // 2)
    assert len(worker.early) >= 50
    assert min(worker.early[1:]) > 0


def test_what_was_revoked_while_the_store_was_away_leaves_the_lot(
    make_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation that came while the store did not answer is heard of when it does again."""
    worker = make_worker(10)
    revoked: set[str] = set()
    monkeypatch.setattr(parking_revocations, "revoked_tasks", revoked)
    worker.store.settle(Settlement("api", pause=HOUR))
    worker.park("t0")
    worker.park("t1")
    with monkeypatch.context() as gone:
        gone.setattr(worker.store.lots, "steer", away)
        revoked.add("t0")
        worker.loop.run_for(3 * SECOND)
    assert worker.handed == []
    worker.loop.run_for(3 * SECOND)
    assert worker.handed == ["t0"]
    assert worker.store.lots.waiting("api")[0] == 1


def test_a_lease_goes_on_after_the_store_was_away(
    make_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released task whose lease was not renewed once, because the store did not answer, stays its
    worker's: the next renewal is made, also when nobody else has asked the store meanwhile."""
    worker = make_worker(10)
    worker.park("t0")
    assert worker.handed == ["t0"]
    third = worker.governor.settings.claim_lease // 3
    with monkeypatch.context() as gone:
        gone.setattr(worker.store.lots, "renew", away)
        worker.loop.run_for(third + 1)
    worker.loop.run_for(third)
    worker.clock.advance(third)
    assert worker.taken_by_others() == []


def test_parked_bytes_that_are_no_message_are_a_dead_letter(
    make_worker: Callable[..., Worker],
) -> None:
    """Such bytes are handed on whole, as a message that cannot be decoded; the next task is
    released."""
    worker = make_worker(1_000)
    worker.park("broken", payload=b"{}")
    worker.park("good")
    worker.loop.run_for(SECOND)
    ((message, exc), _) = worker.consumer.on_decode_error.call_args
    assert message.body == b"{}"
    assert isinstance(exc, ValueError)
    message.ack()
    worker.loop.run_for(SECOND)
    assert worker.handed == ["good"]
    assert not worker.store.lots.find("api", "broken")


def test_a_released_task_that_cannot_be_handed_over_goes_back(
    make_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is not renewed, and it is released again; the worker goes on."""
    worker = make_worker(1_000)
    handled: list[ParkedMessage] = []

    def handle(message: ParkedMessage) -> None:
        handled.append(message)
        if len(handled) == 1:
            raise RuntimeError
        message.ack()

    monkeypatch.setattr(worker.lots._delivery, "_handler", handle)
    worker.park("one")
    worker.loop.run_for(5 * 60 * SECOND)
    assert [message.headers["id"] for message in handled] == ["one", "one"]


def test_a_failure_before_a_question_does_not_silence_the_lot(
    make_worker: Callable[..., Worker],
) -> None:
    """A lot is asked again when the step before a question, or the question itself, failed."""
    worker = make_worker(1_000)
    worker.lots.before_release = Mock(side_effect=[RuntimeError, None, None, None])
    ask = worker.store.lots.release
    worker.store.lots.release = Mock(side_effect=TypeError)  # type: ignore[method-assign]
    worker.park("one")
    worker.store.lots.release = ask  # type: ignore[method-assign]
    worker.loop.run_for(5 * SECOND)
    assert worker.handed == ["one"]


def test_a_copy_that_comes_before_the_store_hears_of_the_end_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released task is deferred, and its copy is parked before the store hears that the task has
    left: the copy runs."""
    worker = SimulatedWorker(tmp_path, monkeypatch)
    lots = worker.store.lots
    release, steer = lots.release, lots.steer

    def slowly(left: tuple[str, ...]) -> None:
        told = partial(steer, "api", Steering("left", left))
        worker.loop.at(worker.clock.now + 3 * SECOND, told)

    def steered(upstream: str, steering: Steering) -> Any:
        return slowly(steering.entries) if steering.what == "left" else steer(upstream, steering)

    def released(ask: ReleaseAsk) -> Released:
        slowly(ask.left)
        return release(replace(ask, left=()))

    monkeypatch.setattr(lots, "steer", steered)
    monkeypatch.setattr(lots, "release", released)
    sent = [worker.send("again", "waits inside") for _ in range(100)]
    worker.run_for(60)
    assert [worker.began[task_id] for task_id in sent] == [1] * 100
