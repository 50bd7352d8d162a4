"""The queue a message came from: whoever consumes it may release what was parked out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kombu.common import Broadcast

from governor.messages.message import QUEUE


class SourceQueues:
    """The queues of one worker; others may be added, and some cancelled, while it runs."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def all(self) -> tuple[str, ...]:
        """List the origins out of which this worker may release tasks."""
        return tuple(sorted(name for name, _ in self._named()))

    def releases(self, origin: str) -> bool:
        """Tell whether this worker may release tasks of ``origin``; an origin of an earlier version
        may be all queues of a worker together."""
        return not {origin, *origin.split("|")}.isdisjoint(self.all())

    def of(self, message: Any) -> str:
        """The queue that a message came from, by a name that is the same for all who consume it."""
        info = message.delivery_info or {}
        came = info.get(QUEUE)
        consumed = self._consumer.app.amqp.queues.consume_from.get(came)
        if consumed is not None and not isinstance(consumed, Broadcast):
            return str(came)
        queues = {str(queue.name): name for name, queue in self._named()}
        if came in queues:
            return queues[came]
        # A queue that is consumed no more; or nobody has marked the message.
        exchange, key = info.get("exchange") or "", info.get("routing_key")
        if came is None and not exchange and key:
            came = str(key)
        if came is None or not self._is_known(came):
            found = (
                n for n, queue in self._named() if exchange and queue.exchange.name == exchange
            )
            came = min(found, default=came)
        return str(came if came is not None else min(queues.values(), default=""))

    def high_first(self) -> bool:
        """Tell whether the broker's most urgent priority is its highest number."""
        return bool(self._consumer.connection.transport.driver_type == "amqp")

    def _is_known(self, queue: str) -> bool:
        return any(str(known.name) == queue for known in self._all_queues())

    def _all_queues(self) -> list[Any]:
        # Not by name: Celery makes up queues that it is asked for.
        return list(self._consumer.app.amqp.queues.values())

    def _named(self) -> Iterator[tuple[str, Any]]:
        for queue in list(self._consumer.app.amqp.queues.consume_from.values()):
            # Each consumer of a broadcast has a queue of its own, until it ends.
            alias = getattr(queue, "alias", None) if isinstance(queue, Broadcast) else None
            yield str(alias or queue.name), queue
