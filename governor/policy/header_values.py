"""The values in which headers speak of quotas: counts, names, lengths of time and instants.

A value that is not what it should be raises :class:`UnreadableError`, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

from governor.clock import SECOND, micros
from governor.policy.retry_after import parse_retry_after

LONGEST = 31 * 86_400 * SECOND
"""Microseconds. A longer time is cut to this: hardly a quota outlasts a month."""

Moment: TypeAlias = Callable[[str, int], int]
"""Reads when something happens, as microseconds after the instant the response was sent.

Rounded up, and from 0 to :data:`LONGEST`. The second argument is that instant (wall microseconds).
"""

_LONGEST_NAME = 128
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|us|µs|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern}){{1,5}}")
_UNITS = {"h": 3_600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 1_000, "us": 1, "µs": 1}
_FIRST_EPOCH_SECOND = 10**9  # in September 2001
_FIRST_EPOCH_MILLISECOND = 10**11  # in March 1973; as seconds it is in the year 5138


class UnreadableError(ValueError):
    """A header is there, and what it says is not what it should say."""


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
    """Seconds from then, seconds since the epoch, or milliseconds since the epoch: by its size.

    APIs write all three under one name. Below 10⁹ it is seconds from then (a quota that resets
    in thirty years is none), below 10¹¹ seconds since the epoch, and from there milliseconds.
    """
    number = _number(text)
    if number >= _FIRST_EPOCH_MILLISECOND:
        return length(number * 1_000 - sent)
    return (at_epoch if number >= _FIRST_EPOCH_SECOND else in_seconds)(text, sent)


def duration(text: str, sent: int) -> int:
    """A length of time with its units, as Go writes it: ``6m0s``. Without a unit, seconds."""
    if not _DURATION.fullmatch(text):
        return in_seconds(text, sent)
    return length(sum(Fraction(size) * _UNITS[unit] for size, unit in _PART.findall(text)))


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
