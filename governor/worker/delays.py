"""Where a message with a countdown waits: in RabbitMQ, where Celery's native delayed delivery is
set up, else in the worker that gets it.

With quorum queues Celery's workers declare 28 queues in which messages wait for 1, 2, 4, … seconds,
and bind the exchanges of the app's queues behind them. A message that is published to the first of
them with its wait in binary before its routing key (``0.0. … 1.0.1.tasks``) runs through those it
needs. It arrives with that key and the last exchange it came through.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from celery.utils.quorum_queues import detect_quorum_queues
from kombu.common import Broadcast
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    level_name,
)

from governor.clock import SECOND
from governor.governor import Governor
from governor.log_lines import LOG
from governor.ports import MessageCopy
from governor.worker.routes import topic_pattern

_ENTRY = level_name(MAX_LEVEL)
ON_THE_WAY = frozenset({
    *map(level_name, range(MAX_LEVEL + 1)), CELERY_DELAYED_DELIVERY_EXCHANGE,
})  # fmt: skip
"""Exchanges of messages that waited in the broker."""
_WAIT = re.compile(rf"(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")
_LONGEST_KEY = 255
"""Bytes of a routing key, in AMQP."""

_MISSING = {403, 404}
"""RabbitMQ's answers when an exchange may not be used, or is not there."""


class Delays:
    """The delay queues as one worker knows them. Made before it consumes: queues that are added
    later are not bound behind them."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        app = governor.app
        with app.connection_for_write() as connection:
            driver = connection.transport.driver_type
        self._on, _ = detect_quorum_queues(app, driver)
        self._bound: list[tuple[str, re.Pattern[str]]] = []
        if self._on:
            self._bound = [
                (queue.exchange.name, _fits(queue.routing_key or ""))
                for queue in app.amqp.queues.values()
                if queue.exchange.type in {"topic", "fanout"} and not isinstance(queue, Broadcast)
            ]

    def delayed(self, copy: MessageCopy, wait: int) -> MessageCopy:
        """``copy`` as it is published when it is to wait ``wait`` microseconds: whole seconds of it
        in the broker, where that can be, and the rest, as its ETA says, in a worker.

        A copy that would come out in several queues does not go that way: the task would run
        twice.
        """
        whole = wait // SECOND
        if not self._on or whole < 1 or not copy.routing_key:
            return copy
        key = calculate_routing_key(whole, copy.routing_key)
        if len(key.encode()) > _LONGEST_KEY or self._exchanges(key) != [copy.exchange]:
            return copy
        return replace(copy, exchange=_ENTRY, routing_key=key)

    def failed(self, error: Exception) -> None:
        """A copy was not published. When the delay queues are the reason they are not used again:
        countdowns are waited for in workers."""
        if self._on and getattr(error, "reply_code", 0) in _MISSING:
            LOG.warning(
                "Celery's delay queues cannot be used, %s: workers hold countdowns",
                type(error).__name__,
            )
            self._on = False

    def restore(self, message: Any) -> None:
        """Give a message that waited in the broker its own exchange and routing key back, whoever
        published it. Those of ungoverned task types stay as Celery knows them."""
        info = message.delivery_info or {}
        key = info.get("routing_key") or ""
        if info.get("exchange") not in ON_THE_WAY or not (wait := _WAIT.match(key)):
            return
        name = str((message.headers or {}).get("task"))
        if name in self._governor.app.tasks and self._governor.governance(name) is None:
            return
        exchanges = set(self._exchanges(key))
        if len(exchanges) == 1:
            info["exchange"], info["routing_key"] = exchanges.pop(), key[wait.end() :]

    def _exchanges(self, key: str) -> list[str]:
        """The exchange of each queue that a message with this key comes out in."""
        return [name for name, fits in self._bound if fits.fullmatch(f".{key}")]


def _fits(pattern: str) -> re.Pattern[str]:
    """Compile what a queue's exchange lets through behind the delay queues, as kombu binds it."""
    return topic_pattern(pattern if pattern.startswith("#") else f"#.{pattern}")
