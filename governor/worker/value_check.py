"""Checks of single values of a message, and how an error shows one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from kombu.asynchronous.timer import to_timestamp

MOST_ATTEMPTS = 1 << 31
"""Whole numbers of a message are below this."""

CONTAINERS = frozenset({list, tuple, dict})

_LONGEST_NAME = 1_024
_LONGEST_LIMIT = 10**9
"""Seconds of a time limit."""

_KINDS = ((str, "text"), (Mapping, "a mapping"), ((list, tuple), "a list"))


def name_problem(value: Any) -> str | None:
    """Say what is wrong with an optional name, which goes into keys and routes."""
    if value is None:
        return None
    if not isinstance(value, str):
        return f"{kind_of(value)} where text belongs"
    if len(value) > _LONGEST_NAME:
        return f"longer than {_LONGEST_NAME} characters"
    if not value.isascii() and not _is_encodable(value):
        return "a lone surrogate, which no encoding has"
    return None


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_whole(value: Any, least: int) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and least <= value < MOST_ATTEMPTS


def are_limits(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and all(limit is None or _is_limit(limit) for limit in value)


def _is_limit(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= _LONGEST_LIMIT


def time_problem(value: Any, zone: Any) -> str | None:
    """Read a time as Celery will: when the request is made, and when its timer is set."""
    try:
        moment = maybe_make_aware(maybe_iso8601(value), zone)
        to_timestamp(timezone.to_system(moment))  # type: ignore[no-untyped-call]
        moment.isoformat()
    except Exception as exc:
        return f"{shown(value)} is no time that can be waited for ({type(exc).__name__})"
    return None


def kind_of(value: Any) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return type(value).__name__


def shown(value: Any) -> str:
    """Render a value as an error may show it: short, on one line."""
    show: Callable[[Any], str] = ascii
    if isinstance(value, str) and len(value) <= 40:
        return show(value)
    if value is None or isinstance(value, (bool, float)):
        return show(value)
    if isinstance(value, int) and abs(value) < 10**18:
        return show(value)
    return kind_of(value)
