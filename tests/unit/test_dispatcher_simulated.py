"""The order of a lane, with the worker's real dispatcher on a clock that stands wherever it hurts.

A worker may stand still anywhere: between asking and hearing the answer, before it tells its pool
of a task, before it hears how one has ended. Meanwhile its pool's processes go on.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.message import Message
from kombu.serialization import dumps

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND, seconds
from governor.policy.parking_values import ReleaseAsk, Released
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.body_results import RUN_KEY, NotNow
from governor.worker.dispatcher import Dispatcher
from governor.worker.request import GovernedRequest
from tests.unit.simulated_loop import (
    SimulatedLoop,
    SimulatedSlots,
    simulated_consumer,
    simulated_request,
)

TASKS = 40
RATE = 50
GRACE = SECOND // 20
MILLI = SECOND // 1_000


class SimulatedPool(SimulatedSlots):
    """Processes whose time goes on while the worker's stands still. As with Celery's prefork pool a
    slot is free before the worker hears how its body has ended."""

    def __init__(self, world: World, slots: int) -> None:
        super().__init__(world.loop, slots)
        self._world = world

    def run(self, request: GovernedRequest) -> None:
        world = self._world
        begins = world.clock.now + world.random.choice([MILLI // 5, MILLI // 5, world.stall()])
        begins += world.way
        world.hand_overs[request.id] += 1
        run = request.request_dict[RUN_KEY]
        if begins > run["until"]:
            late = begins - run["until"]
            world.loop.at(begins, lambda: self._ended(request, NotNow(late=late)))
        else:
            number, tenant = request.args
            world.began[tenant].append(number)
            assert request.call is not None
            assert request.call.slot is not None
            world.calls.append(begins)
            world.latest = max(world.latest, begins - request.call.slot)
            world.loop.at(begins + 2 * MILLI, lambda: self._ended(request, None))

    def _ended(self, request: GovernedRequest, exc: Exception | None) -> None:
        self.release()
        self._world.maybe_stands_still()
        if exc is None:
            request.acknowledge()
            return
        try:
            raise exc
        except NotNow:
            kind, value, trace = sys.exc_info()
        info = SimpleNamespace(exception=value, type=kind, traceback=str(trace), internal=False)
        request.on_failure(info)


class World:
    """One worker, its store, and a producer."""

    def __init__(
        self, random: Random, hold: int, folder: Path, *, idempotent: bool = True, burst: int = 1
    ) -> None:
        self.random = random
        self.clock = FakeClock()
        self.loop = SimulatedLoop(self.clock)
        self.began: dict[str, list[int]] = defaultdict(list)
        self.calls: list[int] = []
        # Microseconds after its slot at which the latest body began.
        self.latest = 0
        self.hand_overs: Counter[str] = Counter()
        self.quiet = True
        # Microseconds that every body takes on its way into the pool, besides.
        self.way = 0
        self.store = MemoryStore(self.clock.monotonic)
        self._release = self.store.lots.release
        self.store.lots.release = self._delayed  # type: ignore[method-assign]
        self.app = Celery("app", broker="memory://", set_as_current=False)
        self.app.conf.update(
            governor_redis_url="redis://unused", governor_hold=hold,
            governor_grace=seconds(GRACE), governor_spill_dir=str(folder),
        )  # fmt: skip
        governor = Governor(self.app, clock=self.clock, store=self.store)
        api = Upstream("api", Limit(f"{RATE}/s", burst=burst), fair_by="tenant")

        @self.app.task(
            base=GovernedTask, upstream=api, idempotent=idempotent, name="call", shared=False
        )
        def call(number: int, tenant: str) -> None:
            """Never executed: the pool is simulated."""

        consumer = simulated_consumer(self.app, self.received)
        pool = SimulatedPool(self, 1)
        self.dispatcher = Dispatcher(governor, consumer, self.loop, pool)
        governor.dispatcher = self.dispatcher
        # The thread of the dead letters has nothing to do, and times of its own.
        self.loop.forget()
        self.dispatcher.parking_out.begin()

    def stall(self) -> int:
        """Microseconds: nothing, less than the grace, more than it."""
        return 0 if self.quiet else self.random.choice([0, MILLI, GRACE // 2, 3 * GRACE])

    def maybe_stands_still(self) -> None:
        if self.random.random() < 0.1:
            self.clock.advance(self.stall())

    def _delayed(self, ask: ReleaseAsk) -> Released:
        self.maybe_stands_still()
        released = self._release(ask)
        self.maybe_stands_still()
        return released

    def send(self, number: int, tenant: str, *, redelivered: bool = False) -> None:
        """Deliver a task from the broker."""
        self.received(self.message(number, tenant, redelivered=redelivered))

    def message(self, number: int, tenant: str, *, redelivered: bool = False) -> Message:
        """A task as the broker delivers it."""
        sent = self.app.amqp.as_task_v2(f"{tenant}{number}", "call", (number, tenant), {})
        content_type, encoding, body = dumps(sent.body, "json")
        return Message(
            body, content_type=content_type, content_encoding=encoding, headers=sent.headers,
            delivery_info={
                "exchange": "", "routing_key": "celery", "redelivered": redelivered,
            },
            accept={"application/json"},
            channel=SimpleNamespace(basic_ack=lambda *_, **__: None, no_ack_consumers=None),
        )  # fmt: skip

    def received(self, message: Any) -> None:
        """What Celery does with a message."""
        self.dispatcher.on_request(simulated_request(self.app, message))

    def run(self) -> None:
        """Until every task has begun."""
        for _ in range(200_000):
            if sum(map(len, self.began.values())) >= self.expected:
                return
            self.loop.turn()
            self.maybe_stands_still()
        pytest.fail(f"only {dict(self.began)} began")


@pytest.mark.parametrize("seed", range(100))
def test_a_worker_that_stands_still_keeps_the_rate(seed: int, tmp_path: Path) -> None:
    """Wherever a worker of one pool slot stands still, every task begins once, after two hand-overs
    at the most, and no faster than the rate allows those that are as late."""
    world = World(Random(seed), seed // 2 % 2, tmp_path)
    names = "ab"[: 1 + seed % 2]
    for number in range(TASKS):
        for tenant in names:
            world.send(number, tenant)
    world.quiet = False
    world.expected = TASKS * len(names)
    world.run()
    assert {tenant: sorted(began) for tenant, began in world.began.items()} == {
        tenant: list(range(TASKS)) for tenant in names
    }
    assert set(world.hand_overs.values()) <= {1, 2}
    # Slots are as far apart as the rate says, and a call is made within the grace of its own unless
    # its body was late.
    latest = max(GRACE, world.latest)
    calls = sorted(world.calls)
    for span in range(1, len(calls)):
        least = span * SECOND // RATE - latest
        assert min(b - a for a, b in zip(calls, calls[span:], strict=False)) >= least, span


@pytest.mark.parametrize("seed", range(10))
def test_a_worker_that_stands_nowhere_keeps_the_order(seed: int, tmp_path: Path) -> None:
    """Bodies of a lane begin in its order where none of them is late."""
    world = World(Random(seed), seed // 2 % 2, tmp_path)
    for number in range(TASKS):
        world.send(number, "a")
    world.expected = TASKS
    world.run()
    assert world.began == {"a": list(range(TASKS))}


def test_what_waited_for_a_pool_slot_is_not_excused_by_a_long_way_into_the_pool(
    tmp_path: Path,
) -> None:
    """A worker that has learned of a long way hands nothing over later than the grace after its
    slot: tasks that waited while the worker stood still do not all begin at once."""
    world = World(Random(0), 10, tmp_path)
    world.expected = 5
    for number in range(TASKS):
        world.send(number, "a")
    world.run()
    # One body is late on its way into the pool.
    world.way = 3 * GRACE
    while not world.dispatcher.late_starts()["starts"]:
        world.loop.turn()
    world.way = 0
    world.expected = TASKS // 2
    world.run()
    world.latest = 0
    world.clock.advance(8 * GRACE)
    world.expected = TASKS
    world.run()
    assert world.latest <= GRACE + MILLI


def test_a_standstill_shorter_than_the_burst_costs_no_rate(tmp_path: Path) -> None:
    """Held tasks keep their slots in a full bucket for as long as its burst lasts."""
    world = World(Random(0), 10, tmp_path, burst=20)
    for number in range(TASKS):
        world.send(number, "a")
    world.expected = TASKS // 2
    world.run()
    world.clock.advance(6 * GRACE)
    world.expected = TASKS
    world.run()
    assert set(world.hand_overs.values()) == {1}
    assert max(world.calls) - min(world.calls) <= (TASKS - 1) * SECOND // RATE + MILLI
