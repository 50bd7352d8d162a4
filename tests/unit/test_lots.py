"""When a worker asks what may leave the parking lot."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.execution.header import Header
from governor.execution.parking import Lanes, pack
from governor.policy.lot import Arrival, ReleaseAsk, Released
from governor.ports import MessageCopy
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.lots import Lots
from governor.worker.outage import StoreOutage
from governor.worker.parked import ParkedMessage
from tests.unit.simulated_loop import SimulatedLoop

AHEAD = SECOND // 20


class _Worker:
    """A worker that asks what may leave a lot of so many tasks as go in a second.

    Args:
        places: those that are always free.

    Attributes:
        left: microseconds before its slot at which each task was released.
        asked: how many questions there were.
    """

    def __init__(self, rate: int, places: int) -> None:
        self.left: list[int] = []
        self.asked = 0
        self._clock = FakeClock()
        self._store = MemoryStore(self._clock.wall)
        app = Celery(broker="redis://unused", set_as_current=False)
        governor = Governor(app, clock=self._clock, store=self._store)
        upstream = Upstream("api", Limit(f"{rate}/s", burst=1))

        @app.task(name="call", base=GovernedTask, upstream=upstream)
        def call() -> None:
            """Nothing."""

        governance = governor.governance(call.name)
        assert governance is not None
        plan = governance.plan
        charges = plan.charges((), {})
        lane, _ = Lanes(str).of_task(plan, charges, Header(), (), {}, "celery", 0)
        payload = pack(MessageCopy(b"[]", {}, {}, "", "celery"))
        assert payload is not None
        numbers = map(str, range(rate))
        self._store.lots.park(
            "api", [Arrival(n, lane, (1,), payload, max_wait=60 * SECOND) for n in numbers]
        )
        self._release = self._store.lots.release
        self._store.lots.release = self._counted  # type: ignore[method-assign]
        consumer = Mock(app=app)
        consumer.create_task_handler.return_value = self._handle
        self._loop = SimulatedLoop(self._clock)
        free: Any = Mock(free=Mock(return_value=places - 1))
        free.acquire = lambda occupant, request: occupant(request)
        outage = StoreOutage(self._clock)
        self._lots = Lots(governor, consumer, self._loop, free, outage, "w", lambda _: 0)

    def run_for(self, micros: int) -> None:
        self._lots.begin()
        self._loop.run_for(micros)

    def _counted(self, ask: ReleaseAsk) -> Released:
        self.asked += 1
        return self._release(ask)

    def _handle(self, message: ParkedMessage) -> None:
        self.left.append(message.slot - self._clock.now)


def test_slots_that_are_close_go_with_one_question() -> None:
    """At a high rate a worker asks at most once in half of the time by which tasks are let out
    before their slots, and none of them comes later than that."""
    rate = 1_000
    worker = _Worker(rate, places=rate)
    worker.run_for(SECOND // 2)
    assert len(worker.left) >= rate // 2
    assert worker.asked <= 1 + SECOND // AHEAD
    # Nobody was asked before about the first ones, whose slots are within this time.
    assert min(worker.left[AHEAD * rate // SECOND :]) >= AHEAD // 2


def test_who_finds_something_asks_in_time() -> None:
    """A worker with few places asks several times in a row, the last time in vain. It asks again
    before the next slot, so that none is lost."""
    worker = _Worker(100, places=3)
    worker.run_for(SECOND // 2)
    assert len(worker.left) >= 50
    assert min(worker.left[1:]) > 0
