"""Resending: a copy goes where the original went, as the message that the original was."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from governor.errors import Unroutable
from governor.messages.header import Header
from governor.messages.message import copy_of, pack, unpack
from governor.messages.variants import deferred, parked, retried
from governor.operations.replay import replay_message
from governor.policy.parking_values import Ticket
from governor.ports import MessageCopy
from governor.worker.parked_message import ParkedMessage
from governor.worker.publisher import Publisher
from governor.worker.routes import mark_queues

ETA = datetime(2026, 1, 1, tzinfo=UTC)
TOPIC = Exchange("feeds", type="topic")
FANOUT = Exchange("news", type="fanout")
DIRECT = Exchange("orders", type="direct")
QUEUES = (
    Queue("feed", TOPIC, routing_key="feed.#"),
    Queue("other", TOPIC, routing_key="other.*"),
    Queue("both", TOPIC, routing_key="both.#"),
    Queue("both2", TOPIC, routing_key="*.two"),
    Queue("direct", DIRECT, routing_key="order"),
    Queue("shouts", FANOUT, routing_key="shout"),
    Queue("plain"),
)
ROUTES: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "topic": ({"queue": "feed", "routing_key": "feed.import"}, ("feeds", "feed.import", "feed")),
    "topic-binding": ({"queue": "feed"}, ("feeds", "feed.#", "feed")),
    "direct": ({"exchange": "orders", "routing_key": "order"}, ("orders", "order", "direct")),
    "fanout": ({"queue": "shouts"}, ("news", "shout", "shouts")),
    "default": ({"queue": "plain"}, ("", "plain", "plain")),
}
BROKERS = [
    "memory",
    "filesystem",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
]


@dataclass
class Broker:
    """A broker with the queues above, all of them consumed by this test."""

    app: Celery
    connection: Any
    received: list[Any]

    def send(self, **options: Any) -> Any:
        """Publish a task as any producer does, and receive it."""
        producer = self.app.connection_for_write()
        with producer, producer.Producer() as sender:
            self.app.send_task("task", ("arg",), producer=sender, **options)
        return self.receive()[0]

    def receive(self, patience: float = 5.0) -> list[Any]:
        """Receive the messages that the queues hold."""
        self.received.clear()
        with contextlib.suppress(socket.timeout):
            while True:
                self.connection.drain_events(timeout=patience)
                patience = 0.3
        return list(self.received)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    name = request.param
    url = f"{name}://"
    if name in {"redis", "rabbitmq"}:
        url = request.getfixturevalue(f"{name}_url")
    app = Celery("resend", broker=url, set_as_current=False)
    app.conf.task_queues = QUEUES
    app.conf.task_default_queue = "plain"
    if name == "filesystem":
        for folder in ("messages", "control"):
            (tmp_path / folder).mkdir()
        app.conf.broker_transport_options = {
            "data_folder_in": str(tmp_path / "messages"),
            "data_folder_out": str(tmp_path / "messages"),
            "control_folder": str(tmp_path / "control"),
        }
    received: list[Any] = []

    def take(_: Any, message: Any) -> None:
        received.append(message)
        message.ack()

    with app.connection_for_read() as connection:
        channel = connection.default_channel
        mark_queues(channel)
        consumer = app.amqp.TaskConsumer(channel, callbacks=[take])
        with consumer:
            made = Broker(app, connection, received)
            # Redis has no fanout queues: who listens must have begun to.
            made.receive(0.1)
            yield made
        for queue in QUEUES:
            queue(channel).delete()
    app.close()


def again(kind: str, copy: MessageCopy) -> MessageCopy:
    """A message as it is sent again in this way."""
    header = Header(upstream="api", idem="first")
    match kind:
        case "deferral":
            return deferred(copy, header, ETA)
        case "retry":
            return retried(copy, header, ETA)
        case "replay":
            return replay_message(
                copy, replay_task_id="new", dead_letter_id="row", idempotency_key="first"
            )
        case _:
            payload = pack(parked(copy, header))
            assert payload is not None
            return unpack(payload)


def released(copy: MessageCopy) -> Any:
    """A parked message as a worker gets it."""
    ticket = Ticket("entry", 0, "holder", b"", 0)
    return ParkedMessage(copy, "api", ticket, 0, {"application/json"}, lambda *_: None)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["deferral", "retry", "replay", "release"])
def test_it_goes_where_the_original_went(broker: Broker, kind: str, route: str) -> None:
    """Exchange, routing key, queue, body, headers and properties of a message are what they were,
    however it is sent again."""
    options, where = ROUTES[route]
    original = broker.send(
        **options, headers={"tenant": "acme", "trace": {"id": 1}}, priority=3, reply_to="answers",
        expires=600, expiration=500, delivery_mode=1, shadow="shown",
        compression=None if route == "default" else "zlib",
    )  # fmt: skip
    copy = copy_of(original)
    assert (copy.exchange, copy.routing_key, copy.queue) == where
    sent = again(kind, copy)
    publisher = Publisher(broker.app)
    if kind == "release":
        came = released(sent)
    else:
        publisher(sent)
        (came,) = broker.receive()
    back = copy_of(came)
    publisher.close()
    assert (back.exchange, back.routing_key, back.queue) == where
    assert back.body == copy.body
    kept = {k: v for k, v in sent.headers.items() if v is not None}
    assert {k: v for k, v in came.headers.items() if v is not None} == kept
    changed = {"governor", "eta", "retries"}
    if kind == "replay":
        changed |= {"id", "expires"}
    assert {k: v for k, v in sent.headers.items() if k not in changed} == {
        k: v for k, v in copy.headers.items() if k not in changed
    }
    assert back.properties == sent.properties
    expected = dict(copy.properties)
    if kind == "replay":
        expected.pop("expiration")
        expected["correlation_id"] = "new"
    assert back.properties == expected
    assert (back.properties["priority"], back.properties["reply_to"]) == (3, "answers")


def test_one_of_two_copies_goes_to_its_own_queue(broker: Broker) -> None:
    """A message that two queues got is two messages; when one of them is sent again, only its queue
    gets it."""
    broker.send(queue="both", routing_key="both.two")
    originals = {message.delivery_info["queue"]: copy_of(message) for message in broker.received}
    assert set(originals) == {"both", "both2"}
    publisher = Publisher(broker.app)
    for _ in range(3):
        publisher(deferred(originals["both2"], Header(), ETA))
        (came,) = broker.receive()
        originals["both2"] = copy_of(came)
        assert originals["both2"].queue == "both2"
    publisher.close()


def test_a_way_that_is_gone_is_replaced_by_the_queue(broker: Broker) -> None:
    """Where the binding is gone by which a message came, the copy goes to its queue by name."""
    copy = copy_of(broker.send(queue="feed", routing_key="feed.import"))
    publisher = Publisher(broker.app)
    publisher(replace(copy, routing_key="no.such.key"))
    (came,) = broker.receive()
    publisher.close()
    assert copy_of(came).queue == "feed"


def test_a_message_that_no_queue_gets_is_not_sent(broker: Broker) -> None:
    """A publish that would reach no queue raises, and the connection goes on working."""
    copy = copy_of(broker.send(queue="feed", routing_key="feed.import"))
    publisher = Publisher(broker.app)
    with pytest.raises(Unroutable, match=r"no\.such\.key"):
        publisher(replace(copy, routing_key="no.such.key", queue=None))
    assert not broker.received[1:]
    publisher(copy)
    (came,) = broker.receive()
    assert copy_of(came) == copy
    publisher.close()


@pytest.mark.parametrize("declared", [None, "direct"])
def test_an_exchange_that_the_app_does_not_know(
    broker: Broker, declared: str | None, request: pytest.FixtureRequest
) -> None:
    """An operator's app that declares none of the queues, as of ``dead replay``, reaches them."""
    copy = copy_of(broker.send(queue="feed", routing_key="feed.import"))
    stranger = Celery("stranger", broker=broker.app.conf.broker_url, set_as_current=False)
    stranger.conf.broker_transport_options = broker.app.conf.broker_transport_options
    if declared is not None:
        stranger.conf.task_queues = [Queue("feed")]
    publisher = Publisher(stranger)
    publisher(copy)
    (came,) = broker.receive()
    publisher.close()
    stranger.close()
    assert copy_of(came).queue == "feed"
