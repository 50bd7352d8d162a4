"""Salvage of a death that cannot be written as it is, because of its own content."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from governor.deadletter.encoding import Lost
from governor.deadletter.rows import message_id_of
from governor.ports import Death, MessageCopy, Reason

_LONGEST = 1_000


def bare_death(
    copy: MessageCopy, reason: Reason, error: BaseException, now: int, task_name: str | None
) -> Death:
    """Make a death of the message alone: ``error`` was raised by what else was to be told of it."""
    return Death(
        reason=reason,
        message=copy,
        dead_at=now,
        task_id=_text(copy.headers.get("id")),
        task_name=task_name or _text(copy.headers.get("task")),
        exc_message=f"nothing else is known of it: telling it raised {_name(error)}",
    )


def reduced(death: Death, error: BaseException) -> Death:
    """Leave the texts of ``death`` out, and of its headers and properties what is no plain value.

    What is left out of a header is marked, so that the message is not taken for a whole one.
    """
    message = death.message
    return replace(
        death,
        message_id=message_id_of(death),
        message=MessageCopy(
            body=message.body,
            headers=_reduced(message.headers),
            properties=_reduced(message.properties),
            exchange=_text(message.exchange) or "",
            routing_key=_text(message.routing_key) or "",
        ),
        task_id=None if death.task_id is None else _written(death.task_id),
        task_name=None if death.task_name is None else _written(death.task_name),
        tenant=None,
        limit_keys=(),
        idempotency_key=None,
        exc_type=_text(death.exc_type),
        exc_message=f"its texts were left out: writing them raised {_name(error)}",
        exc_chain=tuple(name for name in death.exc_chain if _text(name) is not None),
        last_frame=None,
        traceback=None,
        args_redacted=None,
        attempt_log=(),
    )


def _reduced(values: Any) -> dict[str, Any]:
    return {
        name: value if _is_plain(value) else Lost(type(value).__name__)
        for name, value in values.items()
        if _text(name) is not None
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) < 2**53
    return value is None or _text(value) is not None


def _text(value: object) -> str | None:
    """A text that any database takes."""
    if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable():
        return value
    return None


def _written(text: str) -> str:
    return ascii(text[:_LONGEST])[1:-1]


def _name(error: BaseException) -> str:
    return type(error).__name__
