"""Reports of an upstream on its quotas, and the dialects it may have made them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from governor.headers import values
from governor.headers.structured_fields import Item, parse_list
from governor.headers.values import Moment, UnreadableError


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """The words of one response about one quota. ``None`` is what it did not say.

    Times are microseconds, rounded up, from 0 to 31 days.

    Attributes:
        dialect: the row of the table it was read by.
        name: the quota's name as the upstream writes it: a policy, a resource, a reason.
        limit: how much the quota allows in all.
        remaining: how much is left, rounded down; never more than ``limit``.
        reset_after: how long after the response the quota is whole, or its next window begins.
        window: the time in which ``limit`` is allowed.
        kind: the quota comes back at the end of a window, or leaks back steadily.
        interval: the time in which a bucket gives one unit back.
        unit: what is counted.
    """

    dialect: str
    name: str | None = None
    limit: int | None = None
    remaining: int | None = None
    reset_after: int | None = None
    window: int | None = None
    kind: Literal["window", "bucket"] = "window"
    interval: int | None = None
    unit: str = "requests"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its headers by lower-case name, its status, when it was sent."""

    headers: Mapping[str, str]
    status: int | None
    sent: int

    def count(self, header: str) -> int | None:
        text = self.headers.get(header)
        return None if text is None else values.count(text)

    def name(self, header: str) -> str | None:
        text = self.headers.get(header)
        return None if text is None else values.name(text)

    def time(self, header: str, moment: Moment) -> int | None:
        text = self.headers.get(header)
        return None if text is None else moment(text, self.sent)

    def items(self, header: str) -> list[Item]:
        """A structured list. A malformed one is to be ignored, as if it were not there."""
        return parse_list(self.headers.get(header, "")) or []


Parse: TypeAlias = Callable[[str, Answer], Iterator[QuotaReport]]
"""Reads an answer in the dialect of the given name."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of speaking of a quota.

    Attributes:
        name: what its reports call it.
        headers: those it is told by, in lower case. It is asked if one of them is there.
        parse: reads them.
        alone: it is asked only if no row above it had anything to say.
    """

    name: str
    headers: tuple[str, ...]
    parse: Parse
    alone: bool = False

    def reports(self, answer: Answer) -> list[QuotaReport]:
        """The reports it reads; none if one of its headers cannot be read."""
        if not any(header in answer.headers for header in self.headers):
            return []
        try:
            return [_sound(said) for said in self.parse(self.name, answer) if _tells(said)]
        except UnreadableError:
            return []


def _tells(report: QuotaReport) -> bool:
    return report.limit is not None or report.remaining is not None


def _sound(report: QuotaReport) -> QuotaReport:
    """The report, with no more left than there is in all, and no window of no time."""
    remaining = report.remaining
    if report.limit is not None and remaining is not None:
        remaining = min(remaining, report.limit)
    return replace(report, remaining=remaining, window=report.window or None)
