"""Where a message goes: bindings of the app's queues, and the queue that a message came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.common import Broadcast, maybe_declare
from kombu.entity import Exchange, Queue
from kombu.transport.virtual import Channel as VirtualChannel

from governor.messages.message import QUEUE
from governor.ports import MessageCopy

DEFAULT_EXCHANGE = ""


@dataclass(frozen=True, slots=True)
class Way:
    """An exchange and a routing key to publish with."""

    exchange: str
    routing_key: str


def topic_pattern(binding: str) -> re.Pattern[str]:
    """Compile a topic binding; it is matched against a dot and the routing key. ``*`` is one word
    and ``#`` any number of them."""
    words: Mapping[str, str] = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile("".join(words.get(w, rf"\.{re.escape(w)}") for w in binding.split(".")))


def mark_queues(channel: Any) -> None:
    """Make every message consumed on ``channel`` from now on say which queue it came from: only
    AMQP tells it, by a consumer tag, and exchange and key fit several queues."""
    consume = channel.basic_consume
    if getattr(consume, "marks_queues", False):
        return

    def basic_consume(queue: str, *args: Any, callback: Any = None, **kwargs: Any) -> Any:
        def marked(message: Any) -> Any:
            # A dictionary of its own: the memory transport gives several queues the same one.
            message.delivery_info = {**(message.delivery_info or {}), QUEUE: queue}
            return callback(message)

        return consume(queue, *args, callback=marked, **kwargs)

    basic_consume.marks_queues = True  # type: ignore[attr-defined]
    channel.basic_consume = basic_consume


class Routes:
    """The ways on which copies of messages reach the queues they came from.

    A copy goes the way of its original. Where several queues would get it that way, each of them
    has a message of its own already: then it goes to its queue by name, through the default
    exchange.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ways(self, copy: MessageCopy, channel: Any) -> list[Way]:
        """Ways to publish ``copy``, each to be tried when the one before reaches no queue."""
        published = Way(copy.exchange, copy.routing_key)
        if copy.exchange == DEFAULT_EXCHANGE:
            return [published]
        if isinstance(channel, VirtualChannel):
            reached = self._reached(channel, published)
            own = not _is_broadcast(channel, copy.exchange)
        else:
            reached = self._bound(published)
            own = True
            if not reached:
                # Bound by somebody else, or to no queue: the broker knows.
                reached = {copy.queue or ""}
        by_name = [Way(DEFAULT_EXCHANGE, copy.queue)] if copy.queue and own else []
        if not reached or (by_name and reached != {copy.queue}):
            return by_name or ([published] if reached else [])
        return [published, *by_name]

    def _bindings(self, exchange: str) -> Iterator[tuple[Queue, Exchange, str]]:
        for queue in list(self._app.amqp.queues.values()):
            own = (queue.exchange, queue.routing_key)
            more = ((binding.exchange, binding.routing_key) for binding in queue.bindings or ())
            for bound, key in (own, *more):
                if bound is not None and bound.name == exchange:
                    yield queue, bound, key or ""

    def _bound(self, way: Way) -> set[str]:
        """The app's own queues that would get it."""
        found = set()
        for queue, exchange, key in self._bindings(way.exchange):
            match exchange.type:
                case "fanout":
                    fits = True
                case "topic":
                    fits = topic_pattern(key).fullmatch(f".{way.routing_key}") is not None
                case _:
                    fits = key == way.routing_key
            if fits:
                found.add(str(queue.name))
        return found

    def _reached(self, channel: Any, way: Way) -> set[str]:
        """The queues that would get it. kombu's virtual transports route in the publisher, which
        must have declared what it publishes to: an exchange it does not know is a direct one."""
        for queue, exchange, _ in self._bindings(way.exchange):
            fanout = isinstance(queue, Broadcast) or exchange.type == "fanout"
            maybe_declare(exchange if fanout else queue, channel)  # type: ignore[no-untyped-call]
        try:
            table = channel.get_table(way.exchange)
        except KeyError:
            return set()
        if way.exchange not in channel.state.exchanges:
            # The app does not declare it. Only bindings of topic exchanges have patterns.
            kind = "topic" if any(pattern for _, pattern, _ in table) else "direct"
            channel.exchange_declare(way.exchange, kind)
        found = channel.typeof(way.exchange).lookup(table, way.exchange, way.routing_key, None)
        return {str(queue) for queue in found if queue}


def _is_broadcast(channel: Any, exchange: str) -> bool:
    """Tell whether the exchange has no queues in the broker, only listening consumers."""
    listeners = hasattr(channel, "_fanout_queues")
    return listeners and channel.typeof(exchange).type == "fanout"
