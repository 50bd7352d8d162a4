"""Which queue a message came from: whoever consumes it may release what was parked out of it."""

from __future__ import annotations

from typing import Any


class Origins:
    """The queues of one worker; others may be added while it runs."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def all(self) -> tuple[str, ...]:
        """What this worker may release from: each of its queues, and all of them together."""
        queues = tuple(sorted(self._queues()))
        return queues if len(queues) == 1 else (*queues, "|".join(queues))

    def of(self, message: Any) -> str:
        """The queue it came from. Where that cannot be told, it is of all queues of this worker
        together: who consumes the same may release it."""
        return self.queue_of(message) or "|".join(sorted(self._queues()))

    def queue_of(self, message: Any) -> str | None:
        """The queue it came from; ``None`` where that cannot be told."""
        queues = self._queues()
        if len(queues) == 1:
            return str(next(iter(queues)))
        info = message.delivery_info or {}
        exchange, key = info.get("exchange") or "", info.get("routing_key")
        found = [
            name for name, queue in queues.items()
            if (name == key if not exchange
                else (queue.exchange.name, queue.routing_key) == (exchange, key))
        ]  # fmt: skip
        return str(found[0]) if len(found) == 1 else None

    def high_first(self) -> bool:
        """Whether the broker's most urgent priority is its highest number."""
        return bool(self._consumer.connection.transport.driver_type == "amqp")

    def _queues(self) -> Any:
        return self._consumer.app.amqp.queues.consume_from
