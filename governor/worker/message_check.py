"""Check of each message before Celery makes a request of it: Celery and the governor must be able
to work with the message.

Celery reads a message's fields in many places: when it makes the request, when it hands it to the
pool, when it says how the body has ended. A field of the wrong shape raises in one of them, in the
consumer's loop, and leaves the message unacknowledged or its pool slot taken. What passes here has
a shape that none of them fails on. A message that cannot be decoded at all, or names no known
task, is left to Celery, which notices both by itself.
"""

from __future__ import annotations

import marshal
from collections.abc import Container, Iterable, Mapping
from typing import Any

from celery.app.task import Context
from kombu.exceptions import ContentDisallowed, DecodeError

from governor.worker.body_check import (
    ON_CONTEXT,
    body_problem,
    canvas_problem,
    old_body_problem,
)
from governor.worker.value_check import (
    CONTAINERS,
    MOST_ATTEMPTS,
    are_limits,
    is_whole,
    kind_of,
    name_problem,
    shown,
    time_problem,
)

MOST_VALUES = 10_000
"""Values that headers and properties may have together, at all depths."""

MOST_TEXT = 512 * 1024
"""Characters that they may have together."""

MOST_DEPTH = 60
"""Levels of lists and mappings within each other in a header; Celery's own nest four deep. A
dead letter and a parking lot keep as many."""

_NAMES = ("id", "root_id", "parent_id", "group")
_TEXTS = ("shadow", "argsrepr", "kwargsrepr")
_NO_LIMITS = [None, None]
"""The time limits that Celery's producers send for a task that has none."""

_NUMBERS = ("group_index", "replaced_task_nesting")
_TIMES = ("eta", "expires")
_PROPERTIES = ("reply_to", "correlation_id", "message_id", "type", "app_id")
_INTERNAL = frozenset(
    name for name in ON_CONTEXT if name.startswith("_") or callable(getattr(Context, name))
)
"""Headers become attributes of ``task.request``; these would hide its methods and its own."""


def problem_of(message: Any, known: Container[Any], zone: Any) -> str | None:
    """Say which field of ``message`` makes it unusable, and why; ``None`` when it can be used.

    Args:
        message: kombu's.
        known: names of the worker's task types.
        zone: the app's time zone, in which Celery reads times without one.
    """
    headers, properties = message.headers, message.properties
    if not isinstance(headers, (dict, Mapping)):
        return f"headers: {kind_of(headers)} where a mapping belongs"
    return (
        (None if _are_small(headers, properties) else _size_problem(headers, properties))
        or _property_problem(message, properties)
        or _task_problem(message, headers, known, zone)
    )


def _are_small(*parts: Any) -> bool:
    """Tell whether headers are far below every limit, as most are, and need no walk through them.
    Each value, character and level is at least a byte of what ``marshal`` writes."""
    try:
        written = marshal.dumps(parts, 2)
    except ValueError:
        return False
    levels = written.count(b"(") + written.count(b"[") + written.count(b"{")
    return len(written) <= MOST_VALUES and levels <= MOST_DEPTH


def _size_problem(*parts: Any) -> str | None:
    level: list[Any] = list(parts)
    values = text = depth = 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            return f"headers: nested deeper than {MOST_DEPTH} levels"
        inner: list[Any] = []
        for container in level:
            values += len(container)
            if values > MOST_VALUES:
                return f"headers: more than {MOST_VALUES} values"
            items: Iterable[Any] = container
            if container.__class__ is dict:
                text += _length_of_names(container)
                items = container.values()
            for item in items:
                kind = item.__class__
                if kind is str:
                    text += len(item)
                elif kind in CONTAINERS:
                    if item:
                        inner.append(item)
                elif kind is bytes:
                    text += len(item)
        if text > MOST_TEXT:
            return f"headers: more than {MOST_TEXT} characters"
        level = inner
    return None


def _length_of_names(mapping: dict[Any, Any]) -> int:
    try:
        return len("".join(mapping))
    except TypeError:
        return sum(len(name) for name in mapping if isinstance(name, str))


def _property_problem(message: Any, properties: Any) -> str | None:
    if not isinstance(properties, (dict, Mapping)):
        return f"properties: {kind_of(properties)} where a mapping belongs"
    info = message.delivery_info
    if not isinstance(info, (dict, Mapping)):
        return f"property delivery_info: {kind_of(info)} where a mapping belongs"
    for name in ("content_type", "content_encoding"):
        if (problem := name_problem(getattr(message, name))) is not None:
            return f"property {name}: {problem}"
    for name in _PROPERTIES:
        value = properties.get(name)
        if value is not None and (problem := name_problem(value)) is not None:
            return f"property {name}: {problem}"
    for name in ("exchange", "routing_key"):
        if (problem := name_problem(info.get(name))) is not None:
            return f"delivery_info {name}: {problem}"
    priority = properties.get("priority")
    if priority is not None and not is_whole(priority, -MOST_ATTEMPTS):
        return f"property priority: {shown(priority)} where a whole number belongs"
    if properties.get("delivery_mode") not in (None, 1, 2):
        return f"property delivery_mode: {shown(properties['delivery_mode'])} is neither 1 nor 2"
    return None


def _task_problem(
    message: Any, headers: Mapping[str, Any], known: Container[Any], zone: Any
) -> str | None:
    if "task" in headers and not _is_known(headers["task"], known):
        problem = name_problem(headers["task"])
        return None if problem is None else f"header task: {problem}"
    try:
        payload = message.payload
    except (DecodeError, ContentDisallowed):
        return None
    if "task" not in headers:
        # Protocol 1 has everything in the body.
        if not isinstance(payload, dict) or not _is_known(payload.get("task"), known):
            return None
        return _fields_problem("field", payload, zone) or old_body_problem(message, payload)
    if isinstance(payload, dict) and "args" in payload:
        return _fields_problem("header", {**payload, **headers}, zone) or old_body_problem(
            message, payload
        )
    return _fields_problem("header", headers, zone) or body_problem(message, payload)


def _is_known(name: Any, known: Container[Any]) -> bool:
    return isinstance(name, str) and name in known


def _fields_problem(  # noqa: PLR0912 - a table
    where: str, fields: Mapping[str, Any], zone: Any
) -> str | None:
    if not fields.get("id"):
        return f"{where} id: missing"
    for name in _NAMES:
        value = fields.get(name)
        if value is not None and (problem := name_problem(value)) is not None:
            return f"{where} {name}: {problem}"
    for name in _TEXTS:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            return f"{where} {name}: {kind_of(value)} where text belongs"
    retries = fields.get("retries")
    if retries is not None and not is_whole(retries, 0):
        return f"{where} retries: {shown(retries)} is no number of retries"
    for name in _NUMBERS:
        value = fields.get(name)
        if value is not None and not is_whole(value, -MOST_ATTEMPTS):
            return f"{where} {name}: {shown(value)} where a whole number belongs"
    for name in _TIMES:
        value = fields.get(name)
        if value is not None and (problem := time_problem(value, zone)) is not None:
            return f"{where} {name}: {problem}"
    limits = fields.get("timelimit")
    if limits and limits != _NO_LIMITS and not are_limits(limits):
        return f"{where} timelimit: {shown(limits)} where two numbers of seconds belong"
    stamped = fields.get("stamped_headers")
    if stamped and not (
        isinstance(stamped, (list, tuple, set, frozenset))
        and all(isinstance(name, str) for name in stamped)
    ):
        return f"{where} stamped_headers: {shown(stamped)} where a list of names belongs"
    for name in ("stamps", "headers"):
        value = fields.get(name)
        if value and not isinstance(value, Mapping):
            return f"{where} {name}: {kind_of(value)} where a mapping belongs"
    if not _INTERNAL.isdisjoint(fields):
        name = next(filter(_INTERNAL.__contains__, fields))
        return f"{where} {name}: task.request needs the name for itself"
    return canvas_problem(where, fields)
