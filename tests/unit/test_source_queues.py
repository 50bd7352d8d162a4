"""The queue that a parked task came from, by the name that all its consumers know it by."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.common import Broadcast

from governor.worker.source_queues import SourceQueues

FEEDS = Exchange("feeds", type="topic")


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with two queues of a topic exchange, one of its own, and a broadcast."""
    app = Celery("origins", broker="memory://", set_as_current=False)
    app.conf.task_queues = [
        Queue("feed", FEEDS, routing_key="feed.#"),
        Queue("other", FEEDS, routing_key="other.#"),
        Queue("plain"),
        Broadcast("shouts"),
    ]
    yield app
    app.close()


def came(queue: str | None, exchange: str = "", key: str = "") -> Any:
    return SimpleNamespace(delivery_info={"queue": queue, "exchange": exchange, "routing_key": key})


def test_an_origin_is_the_same_for_every_consumer(app: Celery) -> None:
    """The origin is the queue's name, whatever else the worker consumes and however the message was
    published. For a broadcast, of which each worker has its own queue, it is the common name."""
    origins = SourceQueues(SimpleNamespace(app=app))
    shouts = app.amqp.queues["shouts"].name
    for consumed in (["feed", "other", "plain", "shouts"], ["feed", "shouts"], ["feed"]):
        app.amqp.queues.select(consumed)
        assert origins.all() == tuple(sorted(consumed))
        assert origins.of(came("feed", "feeds", "feed.import")) == "feed"
        assert origins.of(came("other", "feeds", "other.x")) == "other"
        if "shouts" in consumed:
            assert origins.of(came(shouts, "shouts", "")) == "shouts"
            # Parked by a worker that has ended since then.
            assert origins.of(came("bcast.gone", "shouts", "")) == "shouts"


def test_a_cancelled_queue_stays_the_origin_and_is_not_released(app: Celery) -> None:
    """After the queue was cancelled, what came from it is still its, and another worker's."""
    origins = SourceQueues(SimpleNamespace(app=app))
    app.amqp.queues.select(["feed", "plain"])
    assert origins.releases("feed")
    app.amqp.queues.deselect("feed")
    assert origins.of(came("feed", "feeds", "feed.import")) == "feed"
    assert not origins.releases("feed")
    # An earlier version joined the names of all queues of a worker.
    assert origins.releases("feed|plain")
    assert not origins.releases("feed|other")


@pytest.mark.parametrize(
    ("exchange", "key", "origin"),
    [("", "plain", "plain"), ("feeds", "feed.import", "feed"), ("unknown", "x", "feed")],
)
def test_a_message_that_says_no_queue_has_an_origin_too(
    app: Celery, exchange: str, key: str, origin: str
) -> None:
    """Where nothing says which queue it was, it is one that this worker releases."""
    app.amqp.queues.select(["feed", "plain"])
    origins = SourceQueues(SimpleNamespace(app=app))
    assert origins.of(came(None, exchange, key)) == origin
