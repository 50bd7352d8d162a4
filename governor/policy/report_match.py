"""Which of the declared limits a report of an upstream is about, and what to correct by it.

The upstream counts calls of others too. Its word only takes room away, see
:mod:`governor.policy.adjustment`; a report that cannot be told to be about one limit is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import starmap

from governor.clock import SECOND
from governor.headers.report import QuotaReport
from governor.policy import quota
from governor.policy.adjustment import Adjustment
from governor.policy.decision import Charge
from governor.policy.limits import Concurrency, Limit, Quota, Rule, Window
from governor.policy.window import Shape

_DAY = 86_400 * SECOND
_PERIOD = {"day": _DAY, "month": 30 * _DAY}
_LONGEST_RESET = _DAY
"""A later reset is cut to this for a leaky bucket: one bad header must not stop a fleet."""

_ROUNDED = SECOND
"""Most APIs round a reset up to whole seconds: so little may be nothing."""

_SAME_END = 300 * SECOND
"""The ends of a quota's period, by our calendar and by the upstream's, differ by less."""

_CLOSE = 10
"""Times that differ by less than one part in so many are the same."""

_FEWEST = 2
_SHARE = 20


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit and its bucket.

    Attributes:
        declared: the limit as it is declared, which is how the upstream knows it.
        limit: the same with the numbers in force.
        bucket: its bucket.
    """

    declared: Rule
    limit: Rule
    bucket: str


@dataclass(frozen=True, slots=True)
class Said:
    """The bearing of one report on a limit.

    Attributes:
        adjustment: the correction. A quota's is not dated.
        spent: nothing is left.
    """

    adjustment: Adjustment
    spent: bool


def read(meters: Sequence[Meter], reports: Sequence[QuotaReport], now: int) -> tuple[Said, ...]:
    """Return the corrections that one response's reports call for, heard at wall µs ``now``."""
    meters = [m for m in meters if not isinstance(m.declared, Concurrency)]
    reports = [r for r in reports if r.unit == "requests" and r.remaining is not None]
    found = [(meter, report) for report in reports for meter in _about(meters, report, now)]
    if not found and len(meters) == len(reports) == 1:
        # There is nothing else it could be about; but a quota would be gone for its whole period
        # over what may have been another.
        found = [(m, reports[0]) for m in meters if not isinstance(m.declared, Quota)]
    return tuple(starmap(_said, found))


def _about(meters: Sequence[Meter], report: QuotaReport, now: int) -> Sequence[Meter]:
    """Find the limit whose numbers these are; none if two have the same."""
    same = [meter for meter in meters if _is_about(meter.declared, report, now)]
    return same if len(same) == 1 else []


def _is_about(rule: Rule, report: QuotaReport, now: int) -> bool:
    if not report.limit:
        return False
    match rule:
        case Limit() if report.kind == "bucket":
            return report.limit == rule.burst
        case Limit() if report.window is None:
            return report.limit == rule.rate.count
        case Limit():
            return _close(report.window, report.limit * rule.rate.period / rule.rate.count)
        case Window():
            shape = Shape.of(report.limit)
            kept = shape.entries * shape.group
            return kept == rule.most and _close(report.window, rule.span)
        case Quota():
            *_, end, _ = quota.bounds(rule.each, rule.zone, now)
            reset = report.reset_after
            return (
                report.limit == rule.most
                and _close(report.window, _PERIOD[rule.each])
                and (reset is None or abs(now + reset - end) < _SAME_END)
            )
        case _:
            return False


def _close(one: int | None, other: int | Fraction) -> bool:
    """Tell whether two values are the same, or one is not known."""
    return one is None or -other <= _CLOSE * (one - other) <= other


def _said(meter: Meter, report: QuotaReport) -> Said:
    limit, remaining, reset = meter.limit, report.remaining or 0, report.reset_after or 0
    charge = limit.charge_on(meter.bucket, 1)
    # No more than remains is left of what we count, whatever the upstream calls the whole.
    used = max(limit.most - remaining, 0)
    tolerance = max(_FEWEST, math.ceil(_late(limit)), -(-limit.most // _SHARE))
    if isinstance(charge, Charge):
        if remaining:
            # It is rounded down: nearly one more may be left.
            used = max(used - 1, 0)
        elif report.kind == "window" and reset > _ROUNDED:
            # Nothing leaks back before the reset.
            until = min(reset, _LONGEST_RESET) + charge.capacity
            used = max(used, -(-until // charge.interval) - 1)
    elif not remaining:
        # The next call would be refused, even if our count differs by one.
        tolerance = int(_late(limit))
    return Said(Adjustment(charge, used=used, tolerance=tolerance, reset=reset), not remaining)


def _late(limit: Rule) -> Fraction:
    """The calls that are on their way at once within the limit's margin."""
    match limit:
        case Limit():
            return Fraction(limit.margin) * limit.rate.count / limit.rate.period
        case Window():
            return Fraction(limit.most * limit.margin, limit.span)
        case _:
            return Fraction(0)
