"""The worker's end of the parking lots while the store is away and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.execution.parking import Lanes, entry_of, group_of, pack
from governor.policy.lot import Arrival, ReleaseAsk
from governor.ports import MessageCopy, Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker import lots as lots_module
from governor.worker.lots import Lots
from governor.worker.outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop

HOUR = 3600 * SECOND


class Worker:
    """The lots of a worker, and the ids of the tasks it hands to Celery."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = SimulatedLoop(self.clock)
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery("lots", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        upstream = Upstream("api", Limit("10/s"))

        @self.app.task(shared=False, base=GovernedTask, upstream=upstream, name="call")
        def call() -> None: ...

        self.handed: list[str] = []
        consumer = Mock(app=self.app)
        consumer.create_task_handler.return_value = lambda message: self.handed.append(
            message.headers["id"]
        )
        places = Mock()
        places.free.return_value = 0
        places.acquire.side_effect = lambda occupant, lot: occupant(lot)
        self.lots = Lots(
            self.governor, consumer, self.loop, places, StoreOutage(self.clock), "w", lambda _: 0
        )  # type: ignore[arg-type]
        self.store.settle(Settlement("api"))
        self.clock.advance(HOUR)
        self.lots.begin()

    def park(self, task_id: str) -> None:
        governance = self.governor.governance("call")
        assert governance is not None
        lane, _ = Lanes(str).of(governance.plan, "celery", ["s"], None, 0)
        copy = MessageCopy(
            json.dumps([[], {}, {}]).encode(), {"id": task_id, "task": "call"},
            {"content_type": "application/json", "content_encoding": "utf-8"}, "", "celery",
        )  # fmt: skip
        arrival = Arrival(entry_of(task_id, 0), lane, (1,), pack(copy))
        self.lots.taken_in("api", self.store.lots.park("api", [arrival]), [])

    def taken_by_others(self) -> list[str]:
        """What another worker would be given: the leases that ran out among them."""
        governance = self.governor.governance("call")
        assert governance is not None
        groups = (group_of(governance.plan, "celery"),)
        asked = ReleaseAsk("api", groups, 9, 0, SECOND, "other")
        return [ticket.entry for ticket in self.store.lots.release(asked).tickets]


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.app.close()


def away(*_: Any) -> None:
    raise StoreUnavailable


def test_what_was_revoked_while_the_store_was_away_leaves_the_lot(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation that came while the store did not answer is heard of when it does again."""
    revoked: set[str] = set()
    monkeypatch.setattr(lots_module, "revoked_tasks", revoked)
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
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released task whose lease was not renewed once, because the store did not answer, stays its
    worker's: the next renewal is made, also when nobody else has asked the store meanwhile."""
    worker.park("t0")
    assert worker.handed == ["t0"]
    third = worker.governor.settings.claim_lease // 3
    with monkeypatch.context() as gone:
        gone.setattr(worker.store.lots, "renew", away)
        worker.loop.run_for(third + 1)
    worker.loop.run_for(third)
    worker.clock.advance(third)
    assert worker.taken_by_others() == []
