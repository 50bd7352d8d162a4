"""A death as a row, and a row as what people and replays read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from sqlalchemy import Boolean, Integer, RowMapping, String

from governor.deadletter.encoding import PAYLOAD_SCHEMA, Encoded, decode_mapping, encode
from governor.deadletter.fingerprint import FINGERPRINT_VERSION, fingerprint
from governor.deadletter.models import DEAD_LETTERS, State
from governor.deadletter.texts import (
    TRACEBACK_LIMIT,
    Redact,
    Texts,
    name,
    optional_name,
    said,
    storable,
    whole,
)
from governor.deadletter.verdict import ReplayVerdict, judge
from governor.keys import message_id
from governor.ports import Death, MessageCopy, Reason

MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
"""Largest message kept. Of a larger one the row keeps everything but the message."""
MAX_HEADER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One row as it may be shown: redacted, without the message itself. Times in µs."""

    id: str
    state: State
    version: int
    reason: Reason
    task_name: str | None
    task_id: str | None
    delivery: int
    tenant: str | None
    upstream: str | None
    limit_keys: tuple[str, ...]
    queue: str | None
    exchange: str
    routing_key: str
    priority: int | None
    exc_type: str | None
    exc_message: str | None
    traceback: str | None
    attempt_log: tuple[Mapping[str, Any], ...]
    http_status: int | None
    fingerprint: str
    fingerprint_version: int
    replay_verdict: str
    replay_why: str
    idempotent: bool | None
    idempotency_key: str | None
    args_redacted: str | None
    payload_sha256: str
    payload_size: int
    payload_schema: int
    truncated: str | None
    attempts: int
    deferrals: int
    waited_seconds: float
    hostname: str | None
    celery_version: str | None
    trace_id: str | None
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    origin_id: str | None
    generation: int
    replay_task_id: str | None
    replay_count: int
    lease_until: int | None
    first_failed_at: int | None
    dead_at: int
    recorded_at: int
    state_at: int
    expires_at: int | None


SHOWN = tuple(DeadLetter.__dataclass_fields__)
"""The columns of :class:`DeadLetter`, which has no others."""


def message_id_of(death: Death) -> str:
    """Return the id that tells the message of a death from others under its task id."""
    message = death.message
    return death.message_id or message_id(message.headers.get("governor"), message.body)


def message_sha256(death: Death) -> str:
    """Hash all that identifies a message without a task id: headers, properties, queue, reason of
    death and body."""
    message = death.message
    digest = hashlib.sha256()
    for part in (message.headers, message.properties, [message.queue, death.reason.value]):
        digest.update(encode(part).text.encode("ascii"))
        digest.update(b"\0")
    digest.update(message.body)
    return digest.hexdigest()


def row_values(
    death: Death,
    *,
    row_id: str,
    recorded_at: int,
    redact: Redact,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> dict[str, Any]:
    """Every column of the new row, by name."""
    message = death.message
    texts = Texts(redact)
    headers, properties = encode(message.headers), encode(message.properties)
    problem = _payload_problem(message, headers, properties, max_payload_bytes)
    if problem is not None:
        texts.notes.append(problem)
    size_refused = problem is not None and headers.exact and properties.exact
    verdict = _verdict(death, problem)
    exc_message = texts.redacted("exc_message", death.exc_message)
    values = {
        "id": row_id,
        "task_id": optional_name(death.task_id),
        "delivery": whole(death.delivery),
        "message_id": message_id_of(death),
        "message_sha256": message_sha256(death),
        "root_id": optional_name(message.headers.get("root_id")),
        "parent_id": optional_name(message.headers.get("parent_id")),
        "group_id": optional_name(message.headers.get("group")),
        "generation": 0,
        "task_name": optional_name(death.task_name),
        "queue": optional_name(message.queue),
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": _optional_whole(message.properties.get("priority")),
        "upstream": optional_name(death.upstream),
        "limit_keys": json.dumps([name(key) for key in death.limit_keys]),
        "tenant": optional_name(death.tenant),
        "reason": death.reason.value,
        "exc_type": optional_name(death.exc_type),
        "exc_message": exc_message,
        "traceback": texts.redacted("traceback", death.traceback, TRACEBACK_LIMIT),
        "attempt_log": texts.attempts(death.attempt_log),
        "http_status": death.http_status if 0 <= (death.http_status or 0) < 1000 else None,
        "fingerprint": fingerprint(
            task_name=death.task_name,
            reason=death.reason,
            exc_chain=death.exc_chain,
            last_frame=death.last_frame,
            http_status=death.http_status,
            exc_message=exc_message,
        ),
        "fingerprint_version": FINGERPRINT_VERSION,
        "replay_verdict": verdict.verdict.value,
        "replay_why": verdict.why,
        "idempotent": death.idempotent,
        "idempotency_key": death.idempotency_key or stamped(message, "idem"),
        "payload": None if size_refused else bytes(message.body),
        "payload_headers": None if size_refused else headers.text,
        "payload_properties": None if size_refused else properties.text,
        "payload_schema": PAYLOAD_SCHEMA,
        "payload_sha256": hashlib.sha256(message.body).hexdigest(),
        "payload_size": len(message.body),
        "args_redacted": texts.redacted("args_redacted", death.args_redacted),
        "attempts": whole(whole(death.delivery) + 1),
        "deferrals": whole(death.deferrals),
        "waited_seconds": death.waited_seconds if math.isfinite(death.waited_seconds) else 0.0,
        "hostname": optional_name(death.hostname),
        "celery_version": _celery_version(),
        "trace_id": optional_name(death.trace_id),
        "first_failed_at": _optional_whole(death.first_failed_at),
        "dead_at": death.dead_at,
        "recorded_at": recorded_at,
        "state_at": death.dead_at,
        "state": State.DEAD.value,
        "version": 1,
        "replay_count": 0,
        "truncated": "; ".join(texts.notes) or None,
    }
    return {column: fitted(column, value) for column, value in values.items()}


def fitted(column: str, value: Any) -> Any:
    """A value that its column takes, on every database: whatever a message says, it has a row."""
    kind = DEAD_LETTERS.c[column].type
    if isinstance(kind, String):
        if value is None and DEAD_LETTERS.c[column].nullable:
            return None
        return storable(said(value)) if kind.length is None else name(value, kind.length)
    if value is None:
        return None
    if isinstance(kind, Boolean):
        return bool(value)
    return whole(value) if isinstance(kind, Integer) else value


def in_ascii(values: Mapping[str, Any], why: str) -> dict[str, Any]:
    """The row for a database that refuses its texts, because its encoding is not UTF-8."""
    plain = {
        column: fitted(column, value.encode("ascii", "backslashreplace").decode())
        if isinstance(value, str)
        else value
        for column, value in values.items()
    }
    note = f"texts written in ASCII: the database refused them ({why})"
    notes = [plain["truncated"], note] if plain["truncated"] else [note]
    return {**plain, "truncated": "; ".join(notes)}


def stamped(message: MessageCopy, name: str) -> str | None:
    """A text of the message's governor header."""
    header = message.headers.get("governor")
    value = header.get(name) if isinstance(header, Mapping) else None
    return storable(value) if isinstance(value, str) else None


def dead_letter(row: RowMapping) -> DeadLetter:
    """The row's columns named in :data:`SHOWN`, as their own types."""
    values = {field: row[field] for field in SHOWN}
    values["state"] = State(values["state"])
    values["reason"] = Reason(values["reason"])
    values["limit_keys"] = tuple(json.loads(values["limit_keys"]))
    values["attempt_log"] = tuple(json.loads(values["attempt_log"]))
    return DeadLetter(**values)


def stored_message(row: RowMapping) -> MessageCopy:
    """The message exactly as it was recorded.

    Raises:
        ValueError: the row holds no message, or not in an encoding known here.
    """
    if row["payload"] is None or row["payload_headers"] is None:
        raise ValueError("the message was not kept")
    if row["payload_schema"] != PAYLOAD_SCHEMA:
        raise ValueError(f"payload schema {row['payload_schema']} is not known to this version")
    body = bytes(row["payload"])
    if hashlib.sha256(body).hexdigest() != row["payload_sha256"]:
        raise ValueError("the stored body no longer has the hash it was recorded with")
    return MessageCopy(
        body=body,
        headers=decode_mapping(row["payload_headers"]),
        properties=decode_mapping(row["payload_properties"] or "{}"),
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        queue=row["queue"],
    )


def _payload_problem(
    message: MessageCopy, headers: Encoded, properties: Encoded, max_payload_bytes: int
) -> str | None:
    if len(message.body) > max_payload_bytes:
        return (
            f"message not kept: its body of {len(message.body)} bytes is over the limit of "
            f"{max_payload_bytes}"
        )
    header_size = len(headers.text) + len(properties.text)
    if header_size > MAX_HEADER_BYTES:
        return (
            f"message not kept: its headers of {header_size} bytes are over the limit of "
            f"{MAX_HEADER_BYTES}"
        )
    if not (headers.exact and properties.exact):
        return "message not exact: it has headers of a type that cannot be kept"
    return None


def _verdict(death: Death, payload_problem: str | None) -> ReplayVerdict:
    return judge(
        death.reason,
        idempotent=death.idempotent,
        delivery=death.delivery,
        began=death.began,
        names_task=isinstance(death.message.headers.get("task"), str),
        payload_problem=payload_problem,
    )


def _optional_whole(value: object) -> int | None:
    return whole(value) if isinstance(value, int) else None


@cache
def _celery_version() -> str:
    return version("celery")
