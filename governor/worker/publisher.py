"""Publisher of message copies, confirmed by the broker within a time budget."""

from __future__ import annotations

from threading import Lock
from typing import Any

from celery import Celery
from kombu.compression import compress

from governor.clock import SECOND
from governor.errors import Unroutable
from governor.ports import MessageCopy
from governor.worker.routes import Routes, Way

BUDGET = 2 * SECOND
"""Microseconds a publish may take."""


def bounded_connection(app: Celery, **options: Any) -> Any:
    """Make a connection to the app's broker whose calls take no longer than :data:`BUDGET`.

    Args:
        options: further ones of the transport.
    """
    budget = BUDGET / SECOND
    # Each transport takes those that it knows.
    bounds = ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout")
    return app.connection_for_write(
        transport_options={
            **(app.conf.broker_transport_options or {}),
            **dict.fromkeys(bounds, budget),
            **options,
        },
        connect_timeout=budget,
    )


class Publisher:
    """Sender of message copies on a connection of its own, within a time budget, confirmed.

    Safe between threads, which take turns.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = Lock()
        self._producer: Any = None
        self._routes = Routes(app)
        self._returned = False

    def __call__(self, copy: MessageCopy) -> None:
        """Publish ``copy``; returning means that the broker has it in a queue.

        Raises:
            Unroutable: no queue would get it; it was not sent.
            Exception: whatever the transport raises; the message may or may not have been sent.
        """
        body: Any = copy.body
        headers = dict(copy.headers)
        if compression := headers.pop("compression", None):
            body, headers["compression"] = compress(body, compression)  # type: ignore[no-untyped-call]
        properties = {"delivery_mode": 2, "priority": 0, **copy.properties}
        properties["expiration"] = _seconds_of(properties.pop("expiration", None))
        with self._lock:
            try:
                ways = self._routes.ways(copy, self._connected().channel)
                if any(self._sent(way, body, headers, properties) for way in ways):
                    return
            except Exception:
                self._disconnect()
                raise
        raise Unroutable(
            f"Exchange {copy.exchange!r} puts messages with the routing key {copy.routing_key!r} "
            "into no queue"
        )

    def _sent(self, way: Way, body: Any, headers: Any, properties: Any) -> bool:
        """Publish one message. Returns whether it reached a queue, as far as the broker says."""
        self._returned = False
        self._connected().publish(
            body,
            exchange=way.exchange,
            routing_key=way.routing_key,
            headers=dict(headers),
            retry=False,
            mandatory=True,
            timeout=BUDGET / SECOND,
            confirm_timeout=BUDGET / SECOND,
            **properties,
        )
        return not self._returned

    def _is_returned(self, *_: Any) -> None:
        # RabbitMQ returns a message before it confirms it.
        self._returned = True

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        with self._lock:
            self._disconnect()

    def _connected(self) -> Any:
        if self._producer is None:
            # Without confirmation, RabbitMQ's "published" only means "written to a socket".
            connection = bounded_connection(self._app, confirm_publish=True)
            connection.connect()
            self._producer = connection.Producer(auto_declare=False)
            if connection.transport.driver_type == "amqp":
                self._producer.channel.events["basic_return"].add(self._is_returned)
        return self._producer

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.close()
            except Exception:
                # It is being thrown away because it is broken.
                return


def _seconds_of(expiration: Any) -> float | None:
    """Convert a message's time to live, a text of milliseconds, to what kombu takes."""
    try:
        milliseconds = int(expiration)
    except (TypeError, ValueError, OverflowError):
        return None
    # Half a millisecond more, because kombu cuts what it has multiplied.
    return max(0, milliseconds + 0.5) / 1000
