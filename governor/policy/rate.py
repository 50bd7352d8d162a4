"""How often an upstream may be called: ``"100/s"``, exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from governor.clock import SECOND
from governor.errors import DeclarationError

_REMEDY = 'Write a count per second, minute, hour or day: "100/s", "1.9/s", "600/min", "5000/h"'
_LONGEST_TEXT = 64
_FASTEST_PER_SECOND = 1_000_000
_SLOWEST_INTERVAL = 30 * 86_400 * SECOND

_UNITS = {
    name: length * SECOND
    for length, names in (
        (1, ("s", "sec", "second", "seconds")),
        (60, ("m", "min", "minute", "minutes")),
        (3_600, ("h", "hour", "hours")),
        (86_400, ("d", "day", "days")),
    )
    for name in names
}
_NORMAL_UNITS = ((86_400 * SECOND, "day"), (3_600 * SECOND, "h"), (60 * SECOND, "min"))
_FORM = re.compile(r"(?P<count>[0-9]+(?:\.[0-9]+)?)\s*/\s*(?P<times>[0-9]*)\s*(?P<unit>[a-z]+)")


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` calls in every ``period`` microseconds.

    Between one call per 30 days and 1,000,000 calls a second. Two rates are equal when they
    are written with the same count and period; ``60/min`` and ``1/s`` differ only in that.

    Raises:
        DeclarationError: the rate is zero, negative, too fast or too slow to be kept.
    """

    count: Fraction
    period: int

    def __post_init__(self) -> None:
        if self.count <= 0 or self.period <= 0:
            raise DeclarationError("rate", f"{self._written()} never allows a call", _REMEDY)
        if self.count * SECOND > _FASTEST_PER_SECOND * self.period:
            raise DeclarationError(
                "rate",
                f"{self._written()} is faster than 1000000/s, one call per microsecond",
                "Declare at most 1000000/s, or no limit at all",
            )
        if self.period > _SLOWEST_INTERVAL * self.count:
            raise DeclarationError(
                "rate",
                f"{self._written()} is slower than one call in 30 days",
                "Declare at least one call in 30 days, or schedule the task instead",
            )

    @classmethod
    def parse(cls, text: Any) -> Rate:
        """Read ``"100/s"``, ``"1.9/s"``, ``"600/min"``, ``"5000/h"``, ``"10/day"``, ``"100/10s"``.

        Raises:
            DeclarationError: ``text`` is not such a text, or not a rate that can be kept.
        """
        if not isinstance(text, str):
            raise DeclarationError("rate", f"{_shown(text)} does not say per what", _REMEDY)
        form = _FORM.fullmatch(text.strip().lower()) if len(text) <= _LONGEST_TEXT else None
        if form is None:
            raise DeclarationError("rate", f"{_shown(text)} is not a rate", _REMEDY)
        unit = _UNITS.get(form["unit"])
        if unit is None:
            raise DeclarationError("rate", f"{form['unit']!r} is not a unit of time", _REMEDY)
        times = int(form["times"] or 1)
        if not times:
            raise DeclarationError(
                "rate", f"{_shown(text)} never allows a call: it is per no time at all", _REMEDY
            )
        return cls(Fraction(form["count"]), times * unit)

    def interval(self, cost: int = 1) -> int:
        """Whole microseconds that ``cost`` calls take at this rate.

        Rounded up: rounding never makes the fleet faster than declared.

        Raises:
            DeclarationError: ``cost`` is negative.
        """
        if cost < 0:
            raise DeclarationError("cost", f"{cost!r} is negative", "Give 0 or more")
        return -(-cost * self.period * self.count.denominator // self.count.numerator)

    def __str__(self) -> str:
        return self._written()

    def _written(self) -> str:
        """The normal form; :meth:`parse` reads back what it read."""
        length, unit = next(
            ((length, unit) for length, unit in _NORMAL_UNITS if self.period % length == 0),
            (SECOND, "s"),
        )
        times = Fraction(self.period, length)
        return f"{_decimal(self.count)}/{'' if times == 1 else _decimal(times)}{unit}"


def _decimal(number: Fraction) -> str:
    """``number`` as digits: every digit where they end, else six after the point."""
    if number.denominator == 1:
        return str(number.numerator)
    places = 0
    scaled = number
    while scaled.denominator != 1 and places < _LONGEST_TEXT:
        scaled *= 10
        places += 1
    if scaled.denominator != 1:
        places, scaled = 6, Fraction(round(number * 10**6))
    digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
