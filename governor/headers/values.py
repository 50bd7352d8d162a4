"""The values in which headers speak of quotas: counts, names, lengths of time and instants.

A value that is not what it should be raises :class:`UnreadableError`, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import TypeAlias

from governor.clock import SECOND, as_micros, micros
from governor.headers.http_message import http_date

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. A longer Retry-After is cut to this: one bad header must not stop a fleet for a year."""

LONGEST = 31 * 86_400 * SECOND
"""Microseconds. A longer time is cut to this: hardly a quota outlasts a month."""

Moment: TypeAlias = Callable[[str, int], int]
"""Reads when something happens, as microseconds after the instant the response was sent.

Rounded up, and from 0 to :data:`LONGEST`. The second argument is that instant (wall microseconds).
"""

_LONGEST_NAME = 128
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(d|h|ms|m|us|µs|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern}){{1,6}}")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{5,18}(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_UNITS = {
    "d": 86_400 * SECOND,
    "h": 3_600 * SECOND,
    "m": 60 * SECOND,
    "s": SECOND,
    "ms": 1_000,
    "us": 1,
    "µs": 1,
}
_FIRST_EPOCH_SECOND = 10**9  # in September 2001
_FIRST_EPOCH_MILLISECOND = 10**11  # in March 1973; as seconds it is in the year 5138


class UnreadableError(ValueError):
    """A header that is there and cannot be read."""


def count(text: str) -> int:
    """Whole calls, rounded down: a part of a call cannot be made."""
    return math.floor(_number(text))


def name(text: str) -> str:
    """A name that may be shown: printable, and not long."""
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
        raise UnreadableError
    return text


def length(time: Fraction | int) -> int:
    """A length of time in microseconds, rounded up and bounded."""
    return min(max(math.ceil(time), 0), LONGEST)


def in_seconds(text: str, sent: int) -> int:
    """Seconds from then."""
    return length(_number(text) * SECOND)


def in_milliseconds(text: str, sent: int) -> int:
    """Milliseconds from then."""
    return length(_number(text) * 1_000)


def at_epoch(text: str, sent: int) -> int:
    """Seconds since the Unix epoch."""
    return length(_number(text) * SECOND - sent)


def guessed(text: str, sent: int) -> int:
    """Read an instant in whatever form: APIs write all of them under one name.

    A length of time with its units, an instant of ISO 8601 (UTC without a zone), or a number:
    below 10⁹ seconds from then (a quota that resets in thirty years is none), below 10¹¹ seconds
    since the epoch, and from there milliseconds since the epoch.
    """
    if _INSTANT.fullmatch(text):
        return _at_instant(text, sent)
    if not _NUMBER.fullmatch(text):
        return duration(text, sent)
    number = _number(text)
    if number >= _FIRST_EPOCH_MILLISECOND:
        return length(number * 1_000 - sent)
    return (at_epoch if number >= _FIRST_EPOCH_SECOND else in_seconds)(text, sent)


def duration(text: str, sent: int) -> int:
    """A length of time with its units, as Go writes it: ``6m0s``, or ``1d2h``. Without a unit,
    seconds."""
    if not _DURATION.fullmatch(text):
        return in_seconds(text, sent)
    return length(sum(Fraction(size) * _UNITS[unit] for size, unit in _PART.findall(text)))


def parse_retry_after(value: str | float | None, now: int) -> float | None:
    """Seconds to wait according to a ``Retry-After`` value; ``now`` is wall microseconds.

    Understands seconds (fractions too, which some APIs send) and the three HTTP date forms.
    A moment in the past is 0, more than a day is a day, and what cannot be read is ``None``.
    """
    if isinstance(value, str):
        text = value.strip()
        if _SECONDS.fullmatch(text):
            return _bounded(float(text))
        moment = http_date(text)
        return None if moment is None else _bounded((moment - now) / SECOND)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return _bounded(value)


def of_retry_after(text: str, sent: int) -> int:
    """A ``Retry-After``: seconds or a date."""
    wait = parse_retry_after(text, sent)
    if wait is None:
        raise UnreadableError
    return micros(wait)


def _number(text: str) -> Fraction:
    """A number without a sign or an exponent, exactly."""
    if not _NUMBER.fullmatch(text):
        raise UnreadableError
    return Fraction(text)


def _at_instant(text: str, sent: int) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())
        return length(as_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - sent)
    except (ValueError, OverflowError):
        raise UnreadableError from None


def _bounded(seconds: float) -> float:
    return float(min(max(seconds, 0), LONGEST_RETRY_AFTER))
