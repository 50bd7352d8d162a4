"""The kinds of limits an owner declares: leaky buckets, windows, quotas, concurrency.

Declare what the upstream itself enforces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from datetime import timedelta
from fractions import Fraction
from typing import Any, Self
from zoneinfo import ZoneInfo

from governor.clock import SECOND
from governor.errors import DeclarationError
from governor.keys import digest, name_of
from governor.policy import quota, window
from governor.policy.decision import (
    CLAIM,
    AnyCharge,
    Charge,
    LeaseCharge,
    QuotaCharge,
    WindowCharge,
)
from governor.policy.options import checked, parameters_by_name, span
from governor.policy.rate import Rate

Cost = int | Callable[..., int]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_WAITED_FOR = frozenset({CLAIM, "pause", "breaker"})
_PERIODS = {1: "s", 60: "m", 3600: "h", 86_400: "d"}
_LONGEST_BURST = 100 * 86_400 * SECOND
_LONGEST_SPAN = 30 * 86_400
_MOST = 10_000_000


class Rule:
    """A limit of any kind.

    Attributes:
        key: names its buckets; it outlives a change of the numbers.
        name: how people and commands call it.
        per: the task argument each of whose values has a bucket of its own.
        cost: cost units of one call, or a function of the task's arguments.
        most: the cost units that can ever be taken at once.
        asks: the parameters of a cost function that is called with arguments by name.
    """

    __slots__ = ("asks", "cost", "key", "most", "name", "per")

    def __init__(  # noqa: PLR0917 - called by the kinds below only
        self, key: str, name: str | None, shown: str, per: str | None, cost: Cost, most: int
    ) -> None:
        if per is not None and not (isinstance(per, str) and per.isidentifier()):
            raise DeclarationError(
                "per", f"{per!r} is not an argument's name", 'Give one, like per="account"'
            )
        if not callable(cost) and (isinstance(cost, bool) or not isinstance(cost, int) or cost < 1):
            raise DeclarationError(
                "cost",
                f"{cost!r} is neither a positive integer nor a callable",
                "Give 1 or more, or a function of the task's arguments",
            )
        if not callable(cost) and cost > most:
            raise DeclarationError(
                "cost",
                f"{cost} is above the limit's {most}: such a call could never be made",
                f"Declare {most_word(self)}={cost} or more",
            )
        if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
            raise DeclarationError(
                "name", f"{name!r} is not a name", "Use letters, digits and . _ - (64 at most)"
            )
        if name in _WAITED_FOR:
            raise DeclarationError(
                "name", f"{name!r} is what tasks wait for that wait for no limit", "Choose another"
            )
        self.per = per
        self.cost = cost
        self.asks = parameters_by_name(cost)
        self.most = most
        self.name = name or (f"{shown} per {per}" if per else shown)
        self.key = name or (f"{key}.{per}" if per else key)

    def charge(self, bucket: str, arguments: Mapping[str, Any], cost: int) -> AnyCharge:
        """The charge of ``cost`` on the bucket these arguments belong to.

        Raises:
            DeclarationError: the value of the ``per=`` argument has no name.
        """
        if self.per is not None:
            value = value_name("per", self.per, arguments.get(self.per))
            bucket = f"{bucket}:{digest(value)}"
        return self.charge_on(bucket, cost)

    def charge_on(self, bucket: str, cost: int) -> AnyCharge:
        """The charge of ``cost`` on ``bucket``."""
        raise NotImplementedError

    def numbers(self) -> dict[str, Any]:
        """Return the numbers that may be changed while the fleet runs, as they are now."""
        return {"most": self.most}

    def with_numbers(self, numbers: Mapping[str, Any]) -> Self:
        """The same limit with other numbers; its buckets stay the same.

        Raises:
            DeclarationError: naming the number and the remedy.
        """
        _known(numbers, self.numbers())
        changed = copy(self)
        changed._renumber({**self.numbers(), **numbers})
        return changed

    def _renumber(self, numbers: Mapping[str, Any]) -> None:
        _check_most(numbers["most"])
        self.most = numbers["most"]


def value_name(field: str, argument: str, value: object) -> str:
    """The name of an argument's value, by which ``field`` tells calls apart.

    Raises:
        DeclarationError: it has none.
    """
    try:
        return name_of(value)
    except Exception as exc:  # the value's own code may be asked
        raise DeclarationError(
            field, f"the value of {argument} names no bucket: {exc}",
            "Pass what identifies it, as text or a number",
        ) from exc  # fmt: skip


def _known(numbers: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for field in numbers:
        if field not in known:
            raise DeclarationError(
                field, "this limit has no such number", f"Give {' or '.join(known)}"
            )


def most_word(rule: Rule) -> str:
    """The declaration's word for :attr:`Rule.most`."""
    return "burst" if isinstance(rule, Limit) else "most"


@checked
class Limit(Rule):
    """A leaky bucket: at most ``rate`` on average, at most ``burst`` at once, fleet-wide.

    The governor keeps a distance from what is declared: a call
    leaves at its slot and reaches the upstream a few milliseconds later, the next perhaps
    less late, and against an equal bucket at its brink each such pair would be a rejection.
    The effective burst is ``burst − rate × margin``, at least one call.

    Args:
        rate: ``"100/s"``, ``"1.9/s"``, ``"600/min"``, ``"5000/h"``, ``"10/day"``.
        burst: calls (cost units) that may be made at once after a quiet time.
        per: the name of a task argument; each of its values gets a bucket of its own.
        cost: cost units of one call: a number, or a callable of the task's arguments.
        margin: seconds of jitter between a call's slot and its arrival to allow for.
        name: how the limit is called in messages and commands; its rate by default.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("burst", "margin", "rate")

    def __init__(
        self,
        rate: str,
        *,
        burst: int = 1,
        per: str | None = None,
        cost: Cost = 1,
        margin: float | timedelta = 0.05,
        name: str | None = None,
    ) -> None:
        self.rate = Rate.parse(rate)
        _check_burst(burst, self.rate)
        period = _PERIODS.get(self.rate.period // SECOND, str(self.rate.period))
        super().__init__(period, name, str(self.rate), per, cost, burst)
        self.burst = burst
        self.margin = span("margin", margin, 0, 10)

    def charge_on(self, bucket: str, cost: int) -> AnyCharge:
        interval = self.rate.interval(cost)
        capacity = max(self.rate.interval(self.burst) - self.margin, interval)
        return Charge(bucket, self.name, interval, capacity, cost)

    def less(self, share: float) -> Limit:
        """The same limit, less a share of its rate and burst."""
        left = copy(self)
        kept = 1 - Fraction(share).limit_denominator(1_000)
        left.rate = Rate(self.rate.count * kept, self.rate.period)
        left.burst = left.most = max(int(self.burst * kept), 1)
        left.name = f"{self.name}, less the reserve"
        return left

    def numbers(self) -> dict[str, Any]:
        return {"rate": str(self.rate), "burst": self.burst}

    def _renumber(self, numbers: Mapping[str, Any]) -> None:
        rate = Rate.parse(numbers["rate"])
        _check_burst(numbers["burst"], rate)
        self.rate = rate
        self.burst = self.most = numbers["burst"]

    def __repr__(self) -> str:
        per = f", per={self.per!r}" if self.per else ""
        return f"Limit({str(self.rate)!r}, burst={self.burst}{per})"


@checked
class Window(Rule):
    """Never more than ``most`` calls in any span of ``per_seconds`` seconds, fleet-wide.

    Up to 1,000 the log of calls is exact, and takes about 10 bytes of Redis a call; beyond it, it
    is kept in groups of ``most`` / 1,000 calls and lets at most one group fewer through.

    Args:
        most: calls (cost units) in any such span.
        per_seconds: the span's length.
        per: the name of a task argument; each of its values gets a window of its own.
        cost: cost units of one call: a number, or a callable of the task's arguments.
        margin: seconds of jitter to allow for: the span is kept that much longer.
        name: how the limit is called in messages and commands.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("margin", "span")

    def __init__(
        self,
        most: int,
        *,
        per_seconds: float | timedelta,
        per: str | None = None,
        cost: Cost = 1,
        margin: float | timedelta = 0.05,
        name: str | None = None,
    ) -> None:
        _check_most(most)
        self.span = span("per_seconds", per_seconds, 0.001, _LONGEST_SPAN)
        length = f"{self.span / SECOND:g}"
        shown = f"{most} in any {length} s"
        super().__init__(f"w{length}", name, shown, per, cost, _kept(most))
        self.margin = span("margin", margin, 0, 10)

    def charge_on(self, bucket: str, cost: int) -> AnyCharge:
        return WindowCharge(bucket, self.name, self.most, self.span + self.margin, cost)

    def _renumber(self, numbers: Mapping[str, Any]) -> None:
        super()._renumber(numbers)
        self.most = _kept(self.most)

    def __repr__(self) -> str:
        return f"Window({self.most}, per_seconds={self.span / SECOND:g})"


@checked
class Quota(Rule):
    """At most ``most`` calls in each calendar period, fleet-wide.

    Args:
        most: calls (cost units) in each period.
        each: ``"day"`` or ``"month"``.
        zone: the time zone in which the upstream's period begins.
        per: the name of a task argument; each of its values gets a quota of its own.
        cost: cost units of one call: a number, or a callable of the task's arguments.
        name: how the limit is called in messages and commands.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("each", "zone")

    def __init__(
        self,
        most: int,
        *,
        each: quota.Reset = "day",
        zone: str = "UTC",
        per: str | None = None,
        cost: Cost = 1,
        name: str | None = None,
    ) -> None:
        _check_most(most)
        if each not in {"day", "month"}:
            raise DeclarationError("each", f"{each!r} is no period", 'Give "day" or "month"')
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, KeyError, TypeError) as exc:
            raise DeclarationError(
                "zone", f"{zone!r} is not a time zone", 'Give one like "America/Los_Angeles"'
            ) from exc
        super().__init__(f"q{each}", name, f"{most} each {each}", per, cost, most)
        self.each = each
        self.zone = zone

    def charge_on(self, bucket: str, cost: int) -> AnyCharge:
        return QuotaCharge(bucket, self.name, self.most, self.each, self.zone, cost)

    def __repr__(self) -> str:
        return f"Quota({self.most}, each={self.each!r}, zone={self.zone!r})"


@checked
class Concurrency(Rule):
    """At most ``most`` calls in flight at once, fleet-wide.

    A lease is held by name, renewed while the task lives, and comes free by itself when its
    holder dies (``governor_claim_lease``).

    Args:
        most: leases.
        per: the name of a task argument; each of its values gets leases of its own.
        name: how the limit is called in messages and commands.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ()

    def __init__(self, most: int, *, per: str | None = None, name: str | None = None) -> None:
        _check_most(most)
        super().__init__("in-flight", name, f"{most} in flight", per, 1, most)

    def charge_on(self, bucket: str, cost: int) -> AnyCharge:
        return LeaseCharge(bucket, self.name, self.most)

    def __repr__(self) -> str:
        per = f", per={self.per!r}" if self.per else ""
        return f"Concurrency({self.most}{per})"


def _kept(most: int) -> int:
    """Return the calls that a window's log of so many lets through."""
    shape = window.Shape.of(most)
    return shape.entries * shape.group


def _check_burst(burst: object, rate: Rate) -> None:
    if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
        raise DeclarationError(
            "burst", f"{burst!r} is not a number of calls", "Give an integer, 1 or more"
        )
    if rate.interval(burst) > _LONGEST_BURST:
        raise DeclarationError(
            "burst",
            f"{burst} at {rate} take more than 100 days",
            "Give a smaller burst, or a Quota",
        )


def _check_most(most: object) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= _MOST:
        raise DeclarationError(
            "most", f"{most!r} is not a number of calls", f"Give an integer, 1 to {_MOST}"
        )
