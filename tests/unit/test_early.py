"""Producers that park: what is parked is what would have been published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, signals
from kombu import Exchange, Queue, binding

from governor import DeclarationError, GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.execution.parking import Lanes, group_of, unpack
from governor.policy.lot import Arrival, ReleaseAsk, Ticket
from governor.ports import MessageCopy, Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.messages import copy_of

TOPIC = Exchange("shop", type="topic")
WILD = Exchange("wild", type="topic")
SHARED = Exchange("shared", type="topic")


class World:
    """An app whose upstream ``api`` may have a parked task of the account ``a`` in its queues."""

    def __init__(self, **declared: Any) -> None:
        self.clock = FakeClock(int(datetime.now(UTC).timestamp()) * SECOND)
        self.app = Celery("app", broker="memory://", backend="cache+memory://")
        self.app.conf.update(
            governor_redis_url="redis://unused", accept_content=["json", "pickle"],
            task_queues=[
                Queue("celery"), Queue("orders", TOPIC, "shop.orders"),
                Queue("letters", TOPIC, "shop.letters"),
                Queue("wild", WILD, "*"), Queue("tame", WILD, "tame"),
                Queue("shared", SHARED, "mine"),
                Queue("also", bindings=[binding(SHARED, "mine")]),
            ],
        )  # fmt: skip
        self.store = MemoryStore(self.clock.wall)
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        limits = (Limit("10/s"), Limit("1/s", per="account"))
        self.api = Upstream("api", *limits, **{"park_early": True, **declared})

        @self.app.task(base=GovernedTask, upstream=self.api, name="order", shared=False)
        def order(number: int, account: str = "a") -> int:
            return number

        self.order: Any = order
        governance = self.governor.governance("order")
        assert governance is not None
        self.plan = governance.plan
        self.store.settle(Settlement("api"))
        self.clock.advance(3600 * SECOND)

    def seed(self, *queues: str, rank: int = 0, fair: str | None = None) -> None:
        """As workers park it."""
        plan = self.plan.leaving_reserve()
        buckets = [charge.bucket for charge in plan.charges((1,), {})]
        for queue in queues or ("celery",):
            lane, _ = Lanes(str).of(plan, queue, buckets, fair, rank)
            arrival = Arrival(f"first of {queue} {rank}", lane, (1,) * len(buckets), b"\n")
            self.store.lots.park("api", [arrival])
        self.clock.advance(SECOND)

    @property
    def waiting(self) -> int:
        return self.store.lots.waiting("api")[0]

    def parked(self, queue: str = "celery") -> Ticket:
        """What is released to a worker of this queue behind the one that was there."""
        group = group_of(self.plan.leaving_reserve(), queue)
        tickets: list[Ticket] = []
        while len(tickets) < 2:
            tickets += self.store.lots.release(
                ReleaseAsk("api", (group,), 10, 0, SECOND * 99, f"t{self.clock.now}")
            ).tickets
            self.clock.advance(SECOND)
        return tickets[1]

    def published(self) -> list[MessageCopy]:
        """What is in the broker, as a worker receives it; it is taken out."""
        found = []
        with self.app.connection_for_read() as connection:
            for queue in self.app.amqp.queues.values():
                bound = queue(connection.default_channel)
                bound.declare()
                while (message := bound.get(no_ack=True, accept=["json", "pickle"])) is not None:
                    found.append(copy_of(message))
        return found


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.published()
    yield made
    made.published()
    made.app.close()


# how a task is sent
WAYS: list[dict[str, Any]] = [
    {},
    {"args": (1,), "kwargs": {"account": "a"}, "priority": 3},
    {"serializer": "pickle"},
    {"compression": "gzip"},
    {"serializer": "pickle", "compression": "bzip2"},
    {"headers": {"mine": {"deep": [1, None, "é"]}}, "stamped_headers": ["who"], "who": "me"},
    {"expires": datetime(2100, 1, 1, tzinfo=UTC), "ignore_result": True, "time_limit": 9},
    {"delivery_mode": 1, "message_id": "m", "app_id": "a", "shadow": "other", "reply_to": "me"},
    {"queue": "orders"},
    {"exchange": "", "routing_key": "celery", "queue": "celery"},
    {"retries": 2, "root_id": "r", "parent_id": "p", "group_id": "g", "group_index": 4},
]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_parked_is_what_would_have_been_published(
    world: World, way: dict[str, Any]
) -> None:
    """Body, headers, properties and route are those that a worker would have received."""
    link = world.order.s(2)
    way = {"args": (1,), "task_id": "an-id", "link": link, "link_error": link, **way}
    world.order.apply_async(**way)
    (published,) = world.published()
    queue = way.get("queue", "celery")
    world.seed(queue, rank=way.get("priority", 0))
    result = world.order.apply_async(**way)
    assert result.id == "an-id"
    assert (world.published(), world.waiting) == ([], 2)
    assert replace(unpack(world.parked(queue).payload), queue=None) == published


# sent on the usual way
PUBLISHED: list[dict[str, Any]] = [
    # later, in any way
    {"countdown": 5},
    {"eta": datetime(2100, 1, 1, tzinfo=UTC)},
    # nobody waits in its lane: another account, another priority, another queue
    {"args": (1, "b")},
    {"priority": 3},
    {"queue": "letters"},
    # it is not certain which queues get it
    {"queue": "wild", "routing_key": "tame"},
    {"queue": "tame"},
    {"queue": "shared"},
    {"exchange": "shop", "routing_key": "shop.orders"},
    # a header that a broker may deliver in another form
    {"headers": {"mine": (1, 2)}},
    # the broker ends its life
    {"expiration": 60},
    # its life ends at an instant of an unknown time zone
    {"expires": "2100-01-01T00:00:00"},
]


@pytest.mark.parametrize("way", PUBLISHED)
def test_what_cannot_be_parked_is_published(world: World, way: dict[str, Any]) -> None:
    """Whatever is in the way of parking, the task goes to the broker."""
    world.seed("celery", "orders", "wild", "tame", "shared")
    world.order.apply_async(**{"args": (1,), **way})
    assert (bool(world.published()), world.waiting) == (True, 5)


def test_nothing_is_parked_while_nothing_waits(world: World) -> None:
    """Where no task is parked the broker gets all."""
    world.order.delay(1)
    assert (len(world.published()), world.waiting) == (1, 0)


def test_it_is_asked_for() -> None:
    """Without park_early nothing is parked by a producer, and it needs a parking lot."""
    world = World(park_early=False)
    world.seed()
    world.order.delay(1)
    assert (len(world.published()), world.waiting) == (1, 1)
    for wrong in ({"parking": "broker", "park_early": True}, {"park_early": "yes"}):
        with pytest.raises(DeclarationError, match="park_early"):
            Upstream("other", Limit("1/s"), **wrong)  # type: ignore[arg-type]


def test_a_running_task_publishes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task sends while it runs goes to the broker."""
    world.seed()
    monkeypatch.setattr(type(world.app), "current_worker_task", world.order)
    world.order.request_stack.push(world.order.request)
    world.order.delay(1)
    assert (len(world.published()), world.waiting) == (1, 1)


def test_urgent_tasks_are_published() -> None:
    """Who has a reserve needs not wait; the others are parked among those that leave it."""
    world = World(reserve=0.1, urgent=(0,))
    world.seed()
    world.seed(rank=3)
    world.order.delay(1)
    assert (len(world.published()), world.waiting) == (1, 2)
    world.order.apply_async((1,), priority=3)
    assert (world.published(), world.waiting) == ([], 3)


def test_a_producer_without_the_code_publishes(world: World) -> None:
    """Without the task's signature nobody knows its lane."""
    world.seed()
    world.app.conf.governor_routes = {"elsewhere": "api"}
    world.app.send_task("elsewhere", (1,))
    assert (len(world.published()), world.waiting) == (1, 1)


@pytest.mark.parametrize("error", [StoreUnavailable("away."), RuntimeError("broken")])
def test_a_failure_publishes(
    world: World, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it cannot be parked after all the broker gets it, and nobody hears of the failure."""
    world.seed()

    def park(*_: Any) -> None:
        raise error

    monkeypatch.setattr(world.store.lots, "park", park)
    world.order.delay(1)
    assert (len(world.published()), world.waiting) == (1, 1)


def test_signals_are_sent_once(world: World) -> None:
    """Before and after publishing Celery says the same of a parked task, and once."""
    world.seed()
    heard: list[str] = []

    def before(sender: str, **_: Any) -> None:
        heard.append(f"before {sender}")

    def after(sender: str, **_: Any) -> None:
        heard.append(f"after {sender}")

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        world.order.delay(1)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert heard == ["before order", "after order"]
    assert world.waiting == 2


def test_how_long_it_waits(world: World) -> None:
    """It waits max_wait from when it is parked, and not beyond its expiry."""
    world.seed()
    now = world.clock.wall()
    world.order.apply_async((1,), task_id="patient")
    late = datetime.fromtimestamp(now / SECOND, UTC) + timedelta(seconds=60)
    world.order.apply_async((1,), task_id="brief", expires=late)
    for entry, wait in (("patient", 3600), ("brief", 60)):
        found = world.store.lots.find("api", entry)
        assert found is not None
        assert found.deadline - now == wait * SECOND
