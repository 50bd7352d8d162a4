"""When a worker asks what may leave the parking lot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, patch

from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.execution.header import Header
from governor.execution.parking import Lanes, pack
from governor.policy.lot import Arrival
from governor.ports import MessageCopy
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.lots import Lots
from governor.worker.outage import StoreOutage
from governor.worker.parked import ParkedMessage
from tests.unit.simulated_loop import SimulatedLoop

RATE = 1_000
AHEAD = SECOND // 20


class _Places:
    """There is always one."""

    def acquire(self, occupant: Callable[[Any], None], request: Any) -> None:
        occupant(request)

    def give_back(self) -> None:
        pass

    def free(self) -> int:
        return RATE


def test_slots_that_are_close_go_with_one_question() -> None:
    """At a high rate a worker asks at most once in half of the time by which tasks are let out
    before their slots, and none of them comes later than that."""
    clock = FakeClock()
    store = MemoryStore(clock.wall)
    app = Celery(broker="redis://unused", set_as_current=False)
    governor = Governor(app, clock=clock, store=store)
    upstream = Upstream("api", Limit(f"{RATE}/s", burst=1))

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
    store.lots.park(
        "api", [Arrival(str(n), lane, (1,), payload, max_wait=60 * SECOND) for n in range(RATE)]
    )
    left: list[int] = []

    def handle(message: ParkedMessage) -> None:
        left.append(message.slot - clock.now)

    consumer = Mock(app=app)
    consumer.create_task_handler.return_value = handle
    loop = SimulatedLoop(clock)
    places: Any = _Places()
    lots = Lots(governor, consumer, loop, places, StoreOutage(clock), "w", lambda _: RATE)
    with patch.object(store.lots, "release", wraps=store.lots.release) as release:
        lots.begin()
        loop.run_for(SECOND // 2)
    assert len(left) >= RATE // 2
    assert release.call_count <= 1 + SECOND // AHEAD
    # Nobody was asked before about the first ones, whose slots are within this time.
    assert min(left[AHEAD * RATE // SECOND :]) >= AHEAD // 2
