"""A task that was taken out before it ran: its result and Celery's events say so, as when a worker
meets a revoked one."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.worker.strategy import proto1_to_proto2
from kombu.exceptions import KombuError
from kombu.message import Message
from kombu.serialization import prepare_accept_content

from governor.errors import UnreadableMessage
from governor.operations.parking_status import Parked
from governor.ports import MessageCopy
from governor.worker.publisher import bounded_connection

_REASON = "revoked"
"""Celery's word for a revocation."""


def revoke(app: Celery, task_id: str, copy: MessageCopy | None) -> None:
    """Make the task's result ``REVOKED``, and tell the chord it is part of. Without a message only
    the result.

    Raises:
        UnreadableMessage: nothing was written.
        Exception: whatever the result backend's client raises.
    """
    if copy is None:
        app.backend.mark_as_revoked(task_id, _REASON)
        return
    request = _request(app, copy)
    task: Any = app.tasks.get(str(request.get("task")))
    backend = app.backend if task is None else task.backend
    ignored = request.get("ignore_result")
    if ignored is None and task is not None:
        ignored = task.ignore_result
    kept = task is not None and task.store_errors_even_if_ignored
    backend.mark_as_revoked(
        task_id, _REASON, request=Context(request), store_result=not ignored or kept
    )


def announce(app: Celery, tasks: Sequence[Parked]) -> None:
    """Send a ``task-revoked`` event of each task whose type sends events. Whether workers send
    theirs is an option of each of them (``-E``), which nobody else knows.

    Raises:
        Exception: whatever the broker's client raises; some of them may have been sent.
    """
    types = app.tasks
    wanted = [task for task in tasks if getattr(types.get(task.task), "send_events", True)]
    if not wanted:
        return
    with bounded_connection(app) as connection:
        connection.connect()  # once: to send through a broker that is away would try for ever
        dispatcher = app.events.Dispatcher(
            connection, hostname=f"governor@{socket.gethostname()}", buffer_while_offline=False
        )
        for task in wanted:
            dispatcher.send(
                "task-revoked", uuid=task.task_id, terminated=False, signum=None, expired=False
            )


def _request(app: Celery, copy: MessageCopy) -> dict[str, Any]:
    """Make the request that a worker would make of the message."""
    properties = dict(copy.properties)
    headers = dict(copy.headers)
    headers.pop("compression", None)  # its body is not compressed here
    message = Message(  # type: ignore[no-untyped-call]
        body=copy.body,
        content_type=properties.get("content_type"),
        content_encoding=properties.get("content_encoding"),
        properties=properties,
        headers=headers,
        delivery_info={"exchange": copy.exchange, "routing_key": copy.routing_key},
        accept=prepare_accept_content(app.conf.accept_content),  # type: ignore[no-untyped-call]
    )
    try:
        payload = message.payload
        if "task" in headers:
            _, _, embed = payload
        else:
            (_, _, embed), headers, _, _ = proto1_to_proto2(message, payload)
        return {
            **headers, **(embed or {}), "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
        }  # fmt: skip
    except (KombuError, InvalidTaskError, ValueError, TypeError, KeyError) as exc:
        raise UnreadableMessage(f"{type(exc).__name__} while it was read") from exc
