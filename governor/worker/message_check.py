"""One check of each message, before Celery makes a request of it: Celery and the governor must be
able to work with the message.

Celery reads a message's fields in many places: when it makes the request, when it hands it to the
pool, when it says how the body has ended. A field of the wrong shape raises in one of them, in the
consumer's loop, and leaves the message unacknowledged or its pool slot taken. What passes here has
a shape that none of them fails on. A message that cannot be decoded at all, or names no known
task, is left to Celery, which notices both by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from celery.app.task import Context
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from kombu.asynchronous.timer import to_timestamp
from kombu.exceptions import ContentDisallowed, DecodeError

from governor.messages.header import NAME
from governor.worker.body_results import RUN_KEY

MOST_VALUES = 10_000
"""Values that headers and properties may have together, at all depths."""

MOST_TEXT = 512 * 1024
"""Characters that they may have together."""

MOST_DEPTH = 60
"""Levels of lists and mappings within each other in a header; Celery's own nest four deep. A
dead letter and a parking lot keep as many."""

_LONGEST_NAME = 1_024
_MOST_ATTEMPTS = 1 << 31
_LONGEST_LIMIT = 10**9
"""Seconds of a time limit."""

_NAMES = ("id", "root_id", "parent_id", "group")
_TEXTS = ("shadow", "argsrepr", "kwargsrepr")
_NUMBERS = ("group_index", "replaced_task_nesting")
_TIMES = ("eta", "expires")
_PROPERTIES = ("reply_to", "correlation_id", "message_id", "type", "app_id")
_SIGNATURES = ("callbacks", "errbacks", "chain")

_KINDS = ((str, "text"), (Mapping, "a mapping"), ((list, tuple), "a list"))
_CONTAINERS = frozenset({list, tuple, dict})

_ON_CONTEXT = frozenset(name for name in vars(Context) if not name.startswith("__"))
_INTERNAL = frozenset(
    name for name in _ON_CONTEXT if name.startswith("_") or callable(getattr(Context, name))
)
"""Headers become attributes of ``task.request``; these would hide its methods and its own."""

_EMBEDDED = frozenset({*_SIGNATURES, "chord"})
_NOT_EMBEDDED = (_ON_CONTEXT | {NAME, RUN_KEY, "task"}) - _EMBEDDED
"""Names that a body may not set in place of the headers and the worker."""


def problem_of(message: Any, known: Container[Any], zone: Any) -> str | None:
    """Say which field of ``message`` makes it unusable, and why; ``None`` when it can be used.

    Args:
        message: kombu's.
        known: names of the worker's task types.
        zone: the app's time zone, in which Celery reads times without one.
    """
    headers, properties = message.headers, message.properties
    if not isinstance(headers, Mapping):
        return f"headers: {_kind(headers)} where a mapping belongs"
    return (
        _size_problem(headers, properties)
        or _property_problem(message, properties)
        or _task_problem(message, headers, known, zone)
    )


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
                elif kind in _CONTAINERS:
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
    if not isinstance(properties, Mapping):
        return f"properties: {_kind(properties)} where a mapping belongs"
    info = message.delivery_info
    if not isinstance(info, Mapping):
        return f"property delivery_info: {_kind(info)} where a mapping belongs"
    for name in ("content_type", "content_encoding"):
        if (problem := _name_problem(getattr(message, name))) is not None:
            return f"property {name}: {problem}"
    for name in _PROPERTIES:
        if (problem := _name_problem(properties.get(name))) is not None:
            return f"property {name}: {problem}"
    for name in ("exchange", "routing_key"):
        if (problem := _name_problem(info.get(name))) is not None:
            return f"delivery_info {name}: {problem}"
    priority = properties.get("priority")
    if priority is not None and not _is_whole(priority, -_MOST_ATTEMPTS):
        return f"property priority: {_shown(priority)} where a whole number belongs"
    if properties.get("delivery_mode") not in (None, 1, 2):
        return f"property delivery_mode: {_shown(properties['delivery_mode'])} is neither 1 nor 2"
    return None


def _task_problem(
    message: Any, headers: Mapping[str, Any], known: Container[Any], zone: Any
) -> str | None:
    if "task" in headers and not _is_known(headers["task"], known):
        problem = _name_problem(headers["task"])
        return None if problem is None else f"header task: {problem}"
    try:
        payload = message.payload
    except (DecodeError, ContentDisallowed):
        return None
    if "task" not in headers:
        # Protocol 1: everything is in the body.
        if not isinstance(payload, dict) or not _is_known(payload.get("task"), known):
            return None
        return _fields_problem("field", payload, zone) or _old_body_problem(message, payload)
    if isinstance(payload, dict) and "args" in payload:
        return _fields_problem("header", {**payload, **headers}, zone) or _old_body_problem(
            message, payload
        )
    return _fields_problem("header", headers, zone) or _body_problem(message, payload)


def _is_known(name: Any, known: Container[Any]) -> bool:
    return isinstance(name, str) and name in known


def _fields_problem(  # noqa: PLR0912 - a table
    where: str, fields: Mapping[str, Any], zone: Any
) -> str | None:
    if not fields.get("id"):
        return f"{where} id: missing"
    for name in _NAMES:
        if (problem := _name_problem(fields.get(name))) is not None:
            return f"{where} {name}: {problem}"
    for name in _TEXTS:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            return f"{where} {name}: {_kind(value)} where text belongs"
    retries = fields.get("retries")
    if retries is not None and not _is_whole(retries, 0):
        return f"{where} retries: {_shown(retries)} is no number of retries"
    for name in _NUMBERS:
        value = fields.get(name)
        if value is not None and not _is_whole(value, -_MOST_ATTEMPTS):
            return f"{where} {name}: {_shown(value)} where a whole number belongs"
    for name in _TIMES:
        value = fields.get(name)
        if value is not None and (problem := _time_problem(value, zone)) is not None:
            return f"{where} {name}: {problem}"
    limits = fields.get("timelimit")
    if limits and not _are_limits(limits):
        return f"{where} timelimit: {_shown(limits)} where two numbers of seconds belong"
    stamped = fields.get("stamped_headers")
    if stamped and not (
        isinstance(stamped, (list, tuple, set, frozenset))
        and all(isinstance(name, str) for name in stamped)
    ):
        return f"{where} stamped_headers: {_shown(stamped)} where a list of names belongs"
    for name in ("stamps", "headers"):
        value = fields.get(name)
        if value and not isinstance(value, Mapping):
            return f"{where} {name}: {_kind(value)} where a mapping belongs"
    if not _INTERNAL.isdisjoint(fields):
        name = next(filter(_INTERNAL.__contains__, fields))
        return f"{where} {name}: task.request needs the name for itself"
    return _canvas_problem(where, fields)


def _body_problem(message: Any, payload: Any) -> str | None:
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        return f"body: {_kind(payload)} where arguments, keyword arguments and options belong"
    return _arguments_problem(message, *payload)


def _old_body_problem(message: Any, payload: Mapping[str, Any]) -> str | None:
    if RUN_KEY in payload:
        return f"body: {RUN_KEY} is for the worker to say"
    return _arguments_problem(
        message, payload.get("args", ()), payload.get("kwargs", {}), None
    ) or _canvas_problem("field", payload)


def _arguments_problem(message: Any, args: Any, kwargs: Any, embed: Any) -> str | None:
    if not isinstance(args, (list, tuple)):
        return f"body: arguments are {_kind(args)}, and should be a list"
    if not isinstance(kwargs, dict):
        return f"body: keyword arguments are {_kind(kwargs)}, and should be a mapping"
    if not all(isinstance(name, str) for name in kwargs):
        return "body: a keyword argument's name is no text"
    if embed:
        if not isinstance(embed, dict):
            return f"body: options are {_kind(embed)}, and should be a mapping"
        for name in embed:
            if not isinstance(name, str) or name in _NOT_EMBEDDED:
                return f"body: {_shown(name)} is no option of a task"
        if (problem := _canvas_problem("body", embed)) is not None:
            return problem
    most = sys.getrecursionlimit() // 2
    if _may_be_deep(message, most) and _is_deep((args, kwargs, embed), most):
        return f"body: nested deeper than {most} levels"
    return None


def _canvas_problem(where: str, fields: Mapping[str, Any]) -> str | None:
    for name in _SIGNATURES:
        value = fields.get(name)
        fits = _is_errback if name == "errbacks" else _is_signature
        if value and not (isinstance(value, (list, tuple)) and all(map(fits, value))):
            return f"{where} {name}: {_kind(value)} where a list of signatures belongs"
    chord = fields.get("chord")
    if chord and not _is_signature(chord):
        return f"{where} chord: {_kind(chord)} where a signature belongs"
    return None


def _is_signature(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.get("task")) and isinstance(value["task"], str)


def _is_errback(value: Any) -> bool:
    """Celery makes a signature of a name here, and only here."""
    return (isinstance(value, str) and bool(value)) or _is_signature(value)


def _may_be_deep(message: Any, most: int) -> bool:
    """Tell whether the body has enough brackets to be deep: most messages need no search."""
    body = message.body
    if message.content_type != "application/json" or not isinstance(body, (str, bytes)):
        return True
    if len(body) <= most:
        return False
    opening: Any = (b"[", b"{") if isinstance(body, bytes) else ("[", "{")
    return sum(map(body.count, opening)) > most


def _is_deep(value: Any, most: int) -> bool:
    """Tell whether lists and mappings are nested deeper than ``most`` levels. Pickling, to which
    the pool resorts, goes one level of recursion down for each."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        # One container may stand in several places of a pickle or of YAML.
        inner: dict[int, Any] = {}
        for container in level:
            items: Iterable[Any] = container
            if container.__class__ is dict:
                items = container.values()
            for item in items:
                kind = item.__class__
                if kind in _CONTAINERS and item:
                    inner[id(item)] = item
        if not inner:
            return False
        level = list(inner.values())
    return True


def _name_problem(value: Any) -> str | None:
    """Say what is wrong with an optional name, which goes into keys and routes."""
    if value is None:
        return None
    if not isinstance(value, str):
        return f"{_kind(value)} where text belongs"
    if len(value) > _LONGEST_NAME:
        return f"longer than {_LONGEST_NAME} characters"
    if not value.isascii() and not _is_encodable(value):
        return "a lone surrogate, which no encoding has"
    return None


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_whole(value: Any, least: int) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and least <= value < _MOST_ATTEMPTS


def _are_limits(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and all(limit is None or _is_limit(limit) for limit in value)


def _is_limit(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= _LONGEST_LIMIT


def _time_problem(value: Any, zone: Any) -> str | None:
    """Read a time as Celery will: when the request is made, and when its timer is set."""
    try:
        moment = maybe_make_aware(maybe_iso8601(value), zone)
        to_timestamp(timezone.to_system(moment))  # type: ignore[no-untyped-call]
        moment.isoformat()
    except Exception as exc:
        return f"{_shown(value)} is no time that can be waited for ({type(exc).__name__})"
    return None


def _kind(value: Any) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return type(value).__name__


def _shown(value: Any) -> str:
    """A value as an error may show it: short, on one line."""
    shown: Callable[[Any], str] = ascii
    if isinstance(value, str) and len(value) <= 40:
        return shown(value)
    if value is None or isinstance(value, (bool, float)):
        return shown(value)
    if isinstance(value, int) and abs(value) < 10**18:
        return shown(value)
    return _kind(value)
