"""A worker whose dispatcher, lots and store are real, on a loop, a pool, a broker and a database
that the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.message import Message
from kombu.serialization import dumps

from governor import Concurrency, GovernedTask, Governor, Limit, Retry, Upstream
from governor.clock import SECOND
from governor.events import Event
from governor.ports import Death, MessageCopy
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker import dead_letter_writer
from governor.worker.body_results import Again, NotNow, failure_info
from governor.worker.dispatcher import Dispatcher
from governor.worker.event_loop import guarded
from governor.worker.request import GovernedRequest
from tests.unit.simulated_loop import (
    SimulatedLoop,
    SimulatedSlots,
    simulated_consumer,
    simulated_request,
)

MILLI = SECOND // 1_000
POOL_SLOTS = 2


@dataclass
class Broker:
    """Messages by tag, until they are acknowledged."""

    unacknowledged: dict[int, str] = field(default_factory=dict)
    published: int = 0

    def basic_ack(self, tag: int, **_: Any) -> None:
        self.unacknowledged.pop(tag, None)

    def basic_reject(self, tag: int, **_: Any) -> None:
        self.unacknowledged.pop(tag, None)

    no_ack_consumers = None


class Loop(SimulatedLoop):
    """Lets nothing out, like Celery's."""

    def turn(self) -> None:
        guarded(super().turn)


class Rows:
    """The dead letters, in a list; one death is one of them, however often it is told."""

    def __init__(self) -> None:
        self.deaths: list[Death] = []

    def record(self, death: Death) -> str:
        if all((d.task_id, d.delivery) != (death.task_id, death.delivery) for d in self.deaths):
            self.deaths.append(death)
        return death.task_id or ""


class LoopExecutor:
    """Does its job on the loop."""

    def __init__(self, _: str, loop: SimulatedLoop) -> None:
        self._loop = loop

    def submit(self, job: Callable[[], object], done: Callable[[Exception | None], None]) -> None:
        error: Exception | None = None
        try:
            job()
        except Exception as exc:
            error = exc
        self._loop.soon(lambda: done(error))

    def idle(self) -> bool:
        return True


class Pool(SimulatedSlots):
    """Pool slots; a body ends as its argument says, and the second time well."""

    def __init__(self, world: SimulatedWorker) -> None:
        super().__init__(world.loop, POOL_SLOTS)
        self._world = world
        self._seen: Counter[str] = Counter()

    def run(self, request: GovernedRequest) -> None:
        how = request.args[0]
        first = not self._seen[request.id]
        self._seen[request.id] += 1
        if how == "refused":
            self.give_back()
            raise RecursionError
        world = self._world
        exc = ENDS[how] if first or how == "fails" else None
        if exc is not None:
            # Being raised makes it longer. No copy, whose making is a call that may fail.
            exc.__traceback__ = None
        if not isinstance(exc, NotNow):
            world.began[request.id] += 1
        world.loop.at(world.clock.now + 2 * MILLI, lambda: self._ended(request, exc))

    def _ended(self, request: GovernedRequest, exc: Exception | None) -> None:
        self.release()
        if exc is None:
            request.on_success((0, None, 0.0))
        else:
            request.on_failure(failure_info(exc))


ENDS: Mapping[str, Exception | None] = {
    "returns": None,
    "late": NotNow(),
    "throttled": NotNow(pause=SECOND // 2),
    "waits inside": NotNow(wait=SECOND // 2),
    "tries again": Again(exc=ConnectionError(), wait=SECOND // 2),
    "fails": ValueError("no"),
}


class SimulatedWorker:
    """One worker of two pool slots, its store, its broker and its database.

    Attributes:
        began: how often a body of each task id made its call.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.broker = Broker()
        self.rows = Rows()
        self.began: Counter[str] = Counter()
        self.store = MemoryStore(self.clock.monotonic)
        patch.setattr(dead_letter_writer, "SerialExecutor", LoopExecutor)
        self.app = Celery("app", broker="memory://", set_as_current=False)
        self.app.conf.update(
            governor_redis_url="redis://unused", governor_spill_dir=str(folder), governor_hold=0
        )
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        self.heard: list[Event] = []
        self.governor.events.listen(self.heard.append)
        self.governor.__dict__["dead_letters"] = self.rows
        api = Upstream("api", Limit("50/s", burst=2), fair_by="tenant")
        few = Upstream("few", Limit("50/s"), Concurrency(1), parking="broker")
        options = {"base": GovernedTask, "shared": False}
        retry = Retry(on=ConnectionError, attempts=3)

        @self.app.task(**options, upstream=api, idempotent=True, retry=retry, name="again")
        def again(how: str, tenant: str) -> None: ...

        @self.app.task(**options, upstream=api, name="once")
        def once(how: str, tenant: str) -> None: ...

        @self.app.task(**options, upstream=few, idempotent=True, retry=retry, name="deferred")
        def deferred(how: str, tenant: str) -> None: ...

        self.pool = Pool(self)
        consumer = simulated_consumer(self.app, self.received)
        self.dispatcher = Dispatcher(self.governor, consumer, self.loop, self.pool)
        self.governor.dispatcher = self.dispatcher
        self.dispatcher.publishing.publish = self._publish  # type: ignore[method-assign]
        self.dispatcher.parking_out.begin()

    def send(self, task: str, how: str, tenant: str = "a", **headers: Any) -> str:
        """Deliver a task from the broker, with further headers; its id."""
        task_id = f"{task}-{how}-{self.broker.published}"
        sent = self.app.amqp.as_task_v2(task_id, task, (how, tenant), {})
        content_type, encoding, body = dumps(sent.body, "json")
        self._deliver(body, content_type, encoding, {**sent.headers, **headers})
        return task_id

    def received(self, message: Any) -> None:
        """Do what Celery does with a message."""
        self.dispatcher.on_request(simulated_request(self.app, message))

    def run_for(self, seconds: int) -> None:
        """Let so much time pass, and run what is due meanwhile."""
        self.loop.run_for(seconds * SECOND)

    def _deliver(self, body: Any, content_type: str, encoding: str, headers: Any) -> None:
        self.broker.published += 1
        tag = self.broker.published
        self.broker.unacknowledged[tag] = headers["id"]
        message = Message(
            body, content_type=content_type, content_encoding=encoding, headers=dict(headers),
            delivery_tag=tag, delivery_info={"exchange": "", "routing_key": "celery"},
            accept={"application/json"}, channel=self.broker,
        )  # fmt: skip
        self.received(message)

    def _publish(self, copy: MessageCopy, eta: int) -> None:
        kind, encoding = copy.properties["content_type"], copy.properties["content_encoding"]
        headers = {**copy.headers, "eta": None}
        at = self.clock.now + max(eta - self.clock.wall(), 0)
        self.loop.at(at, lambda: self._deliver(copy.body, kind, encoding, headers))
