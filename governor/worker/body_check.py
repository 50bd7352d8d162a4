"""Check of a message's body: arguments, keyword arguments, and the canvas in its options."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from celery.app.task import Context

from governor.messages.header import NAME
from governor.worker.body_results import RUN_KEY
from governor.worker.value_check import CONTAINERS, kind_of, shown

_SIGNATURES = ("callbacks", "errbacks", "chain")

ON_CONTEXT = frozenset(name for name in vars(Context) if not name.startswith("__"))
"""Names that ``task.request`` has of its own."""

_EMBEDDED = frozenset({*_SIGNATURES, "chord"})
_NOT_EMBEDDED = (ON_CONTEXT | {NAME, RUN_KEY, "task"}) - _EMBEDDED
"""Names that a body may not set in place of the headers and the worker."""


def body_problem(message: Any, payload: Any) -> str | None:
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        return f"body: {kind_of(payload)} where arguments, keyword arguments and options belong"
    return _arguments_problem(message, *payload)


def old_body_problem(message: Any, payload: Mapping[str, Any]) -> str | None:
    if RUN_KEY in payload:
        return f"body: {RUN_KEY} is for the worker to say"
    return _arguments_problem(
        message, payload.get("args", ()), payload.get("kwargs", {}), None
    ) or canvas_problem("field", payload)


def _arguments_problem(message: Any, args: Any, kwargs: Any, embed: Any) -> str | None:
    if not isinstance(args, (list, tuple)):
        return f"body: arguments are {kind_of(args)}, and should be a list"
    if not isinstance(kwargs, dict):
        return f"body: keyword arguments are {kind_of(kwargs)}, and should be a mapping"
    if kwargs and not all(isinstance(name, str) for name in kwargs):
        return "body: a keyword argument's name is no text"
    if embed:
        if not isinstance(embed, dict):
            return f"body: options are {kind_of(embed)}, and should be a mapping"
        for name in embed:
            if not isinstance(name, str) or name in _NOT_EMBEDDED:
                return f"body: {shown(name)} is no option of a task"
        if any(embed.values()) and (problem := canvas_problem("body", embed)) is not None:
            return problem
    most = sys.getrecursionlimit() // 2
    if _may_be_deep(message, most) and _is_deep((args, kwargs, embed), most):
        return f"body: nested deeper than {most} levels"
    return None


def canvas_problem(where: str, fields: Mapping[str, Any]) -> str | None:
    for name in _SIGNATURES:
        value = fields.get(name)
        fits = _is_errback if name == "errbacks" else _is_signature
        if value and not (isinstance(value, (list, tuple)) and all(map(fits, value))):
            return f"{where} {name}: {kind_of(value)} where a list of signatures belongs"
    chord = fields.get("chord")
    if chord and not _is_signature(chord):
        return f"{where} chord: {kind_of(chord)} where a signature belongs"
    return None


def _is_signature(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.get("task")) and isinstance(value["task"], str)


def _is_errback(value: Any) -> bool:
    """Tell whether Celery makes an error callback of a value: of a name too, here alone."""
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
                if kind in CONTAINERS and item:
                    inner[id(item)] = item
        if not inner:
            return False
        level = list(inner.values())
    return True
