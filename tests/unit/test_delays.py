"""Where a message with a countdown is published to, and what it is when it comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.common import Broadcast

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.ports import MessageCopy
from governor.worker.delays import Delays

QUORUM = {"x-queue-type": "quorum"}
SHOP = Exchange("shop", type="topic")
MESSAGE = MessageCopy(b"[]", {"task": "order"}, {"priority": 3}, "shop", "shop.orders")
FIVE = ".".join(f"{5:028b}") + "."


def delays(*queues: Queue, broker: str = "amqp://") -> Delays:
    app = Celery("delays", broker=broker, set_as_current=False)
    app.conf.update(task_queues=queues, governor_redis_url="redis://limiter")
    upstream = Upstream("api", Limit("1/s"))

    @app.task(base=GovernedTask, upstream=upstream, name="order", shared=False)
    def _order() -> None: ...

    @app.task(name="plain", shared=False)
    def _plain() -> None: ...

    return Delays(Governor(app))


def queue(exchange: Exchange, key: str, **arguments: Any) -> Queue:
    return Queue(f"{exchange.name}.{key}", exchange, key, queue_arguments=arguments or QUORUM)


def came(exchange: str, key: str, task: str = "order") -> Any:
    return Mock(delivery_info={"exchange": exchange, "routing_key": key}, headers={"task": task})


@pytest.mark.parametrize("bound", ["shop.orders", "shop.*", "#", "shop.#", "#.orders", "orders"])
def test_it_waits_in_the_broker_by_whole_seconds(bound: str) -> None:
    """A message of a topic exchange with a fitting binding goes to the first delay queue, with its
    seconds before its key."""
    sent = delays(queue(SHOP, bound)).delayed(MESSAGE, 5 * SECOND + SECOND // 2)
    assert sent == replace(MESSAGE, exchange="celery_delayed_27", routing_key=FIVE + "shop.orders")


OTHER = Exchange("other", type="topic")

# where it is published as ever
AS_EVER: list[tuple[tuple[Queue, ...], str, int, str]] = [
    # no queue is a quorum queue
    ((queue(SHOP, "#", **{"x-queue-type": "classic"}),), "amqp://", 5 * SECOND, "shop.orders"),
    # another broker
    ((queue(SHOP, "#"),), "redis://", 5 * SECOND, "shop.orders"),
    # a direct exchange: nothing is bound to it
    ((queue(Exchange("shop"), "shop.orders"),), "amqp://", 5 * SECOND, "shop.orders"),
    # Celery binds no broadcast
    (
        (Broadcast("b", exchange=Exchange("shop", type="fanout"), queue_arguments=QUORUM),),
        "amqp://", 5 * SECOND, "shop.orders",
    ),
    # an exchange that no queue of this app is bound to
    ((queue(OTHER, "#"),), "amqp://", 5 * SECOND, "shop.orders"),
    # the binding lets other keys through
    ((queue(SHOP, "letters"), queue(SHOP, "x.*.orders")), "amqp://", 5 * SECOND, "shop.orders"),
    # it would come out at two exchanges, and be run twice
    ((queue(SHOP, "shop.*"), queue(OTHER, "shop.orders")), "amqp://", 5 * SECOND, "shop.orders"),
    # so it would at two queues of one exchange
    ((queue(SHOP, "shop.*"), queue(SHOP, "shop.orders")), "amqp://", 5 * SECOND, "shop.orders"),
    # less than the second that the queues can wait
    ((queue(SHOP, "#"),), "amqp://", SECOND - 1, "shop.orders"),
    # no key
    ((queue(SHOP, "#"),), "amqp://", 5 * SECOND, ""),
    # a key for which there is no room
    ((queue(SHOP, "#"),), "amqp://", 5 * SECOND, "k" * 200),
]  # fmt: skip


@pytest.mark.parametrize(("queues", "broker", "wait", "key"), AS_EVER)
def test_elsewhere_it_is_published_as_ever(
    queues: tuple[Queue, ...], broker: str, wait: int, key: str
) -> None:
    """Where Celery has set nothing up for it the countdown is waited for in a worker."""
    copy = replace(MESSAGE, routing_key=key)
    assert delays(*queues, broker=broker).delayed(copy, wait) is copy


@pytest.mark.parametrize("exchange", ["celery_delayed_delivery", "celery_delayed_1"])
def test_it_comes_back_as_what_it_was(exchange: str) -> None:
    """Exchange and routing key are the message's own again, so that it can wait once more."""
    shop = delays(queue(SHOP, "shop.*"))
    message = came(exchange, FIVE + "shop.orders")
    shop.restore(message)
    assert message.delivery_info == {"exchange": "shop", "routing_key": "shop.orders"}
    shop.restore(message)
    assert message.delivery_info == {"exchange": "shop", "routing_key": "shop.orders"}


@pytest.mark.parametrize(
    ("exchange", "key", "task"),
    [
        # a key of somebody's own that looks alike
        ("shop", FIVE + "shop.orders", "order"),
        # no wait before it
        ("celery_delayed_delivery", "shop.orders", "order"),
        # a task type that is not governed
        ("celery_delayed_delivery", FIVE + "shop.orders", "plain"),
        # nobody knows where it came from
        ("celery_delayed_delivery", FIVE + "letters", "order"),
    ],
)
def test_others_are_left_alone(exchange: str, key: str, task: str) -> None:
    """Only governed messages that came through the delay queues are touched."""
    message = came(exchange, key, task)
    delays(queue(SHOP, "shop.*")).restore(message)
    assert message.delivery_info == {"exchange": exchange, "routing_key": key}


def test_queues_that_are_missing_are_not_used_again() -> None:
    """RabbitMQ says that there is no such exchange: from then on workers hold countdowns. A
    broker that is away says nothing about it."""
    shop = delays(queue(SHOP, "#"))
    shop.failed(ConnectionResetError())
    assert shop.delayed(MESSAGE, 5 * SECOND) is not MESSAGE
    missing = OSError()
    missing.reply_code = 404  # type: ignore[attr-defined]
    shop.failed(missing)
    assert shop.delayed(MESSAGE, 5 * SECOND) is MESSAGE
