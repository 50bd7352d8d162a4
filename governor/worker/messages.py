"""Broker messages: an exact copy of one that was received, and sending a copy."""

from __future__ import annotations

from threading import Lock
from typing import Any

from celery import Celery
from kombu.compression import compress
from kombu.message import Message

from governor.clock import SECOND
from governor.execution.deferral import KEPT_PROPERTIES
from governor.ports import MessageCopy

BUDGET = 2 * SECOND
"""Microseconds a publish may take."""


def bounded_connection(app: Celery, **options: Any) -> Any:
    """A connection to the app's broker on which nobody waits longer than :data:`BUDGET`.

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


def copy_of(message: Message) -> MessageCopy:
    """The message as it was published. The broker's own additions are left out; so is
    ``expiration``, which comes back as a text of milliseconds and would be multiplied."""
    body = message.body
    info = message.delivery_info or {}
    properties = {
        k: v for k in KEPT_PROPERTIES if (v := (message.properties or {}).get(k)) is not None
    }
    properties["content_type"] = message.content_type
    properties["content_encoding"] = message.content_encoding
    return MessageCopy(
        body=body.encode() if isinstance(body, str) else bytes(body or b""),
        headers=dict(message.headers or {}),
        properties=properties,
        exchange=info.get("exchange") or "",
        routing_key=info.get("routing_key") or "",
    )


class Publisher:
    """Sends message copies on a connection of its own, within a time budget, confirmed.

    Safe between threads, which take turns.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = Lock()
        self._producer: Any = None

    def __call__(self, copy: MessageCopy) -> None:
        """Publish ``copy``; returning means that the broker has it.

        Raises:
            Exception: whatever the transport raises; the message may or may not have been sent.
        """
        body: Any = copy.body
        headers = dict(copy.headers)
        if compression := headers.pop("compression", None):
            body, headers["compression"] = compress(body, compression)  # type: ignore[no-untyped-call]
        with self._lock:
            try:
                self._connected().publish(
                    body,
                    exchange=copy.exchange,
                    routing_key=copy.routing_key,
                    headers=headers,
                    retry=False,
                    timeout=BUDGET / SECOND,
                    confirm_timeout=BUDGET / SECOND,
                    **{"delivery_mode": 2, "priority": 0, **copy.properties},
                )
            except Exception:
                self._disconnect()
                raise

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
        return self._producer

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.close()
            except Exception:
                # It is being thrown away because it is broken.
                return
