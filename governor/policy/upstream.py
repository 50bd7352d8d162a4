"""The declaration of an upstream: its limits, and what happens when it is unwell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import EllipsisType
from typing import Literal

from governor.clock import SECOND
from governor.errors import DeclarationError
from governor.policy.adaptive import WHOLE, AdaptivePolicy
from governor.policy.breaker import BreakerPolicy
from governor.policy.limits import NAME, Limit, Rule, Window, value_name
from governor.policy.options import checked, span

StoreDown = Literal["closed", "open", "local"]
Parking = Literal["store", "broker"]

_WAIT = 3_600 * SECOND
_LONGEST_WAIT = 30 * 86_400 * SECOND
_PROBE = 30 * SECOND
"""A probe that was not heard of for so long counts as lost."""


@checked
class Breaker:
    """A circuit breaker: an upstream that fails is not called; tasks wait, and spend no retry.

    A call fails when the upstream could not be reached, did not answer in time or answered with
    5xx, or when its exception is one of the task's ``Retry(on=…)``.

    Args:
        failures: so many failures among the latest ``of`` calls open the breaker.
        of: the latest calls that count.
        open_for: seconds until the first probe; doubled each time a probe fails, up to 16 times.
        ramp: after the probe so many calls at a time must have succeeded; it begins with two and
            doubles.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("policy",)

    def __init__(
        self, failures: int = 10, *, of: int = 20, open_for: float | timedelta = 30.0, ramp: int = 8
    ) -> None:
        _integer("of", of, 1, 1_000)
        _integer("failures", failures, 1, of)
        _integer("ramp", ramp, 1, 1_024)
        doubled_from = span("open_for", open_for, 0.1, 3_600)
        self.policy = BreakerPolicy(failures, of, doubled_from, ramp, _PROBE)

    def __repr__(self) -> str:
        return f"Breaker({self.policy.failures}, of={self.policy.of})"


@checked
class Adaptive:
    """Rates that are lowered when the upstream drops calls, and raised again, up to what is
    declared, while calls have to wait.

    Args:
        floor: the smallest share of the declared rates, above 0 and below 1.
        cut: what a drop leaves of the rates.
        recovery: seconds of pressure in which the whole declared rate comes back from nothing.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("policy",)

    def __init__(
        self, floor: float = 0.1, *, cut: float = 0.7, recovery: float | timedelta = 60.0
    ) -> None:
        for field, value in (("floor", floor), ("cut", cut)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise DeclarationError(field, f"{value!r} is no share", "Give one between 0 and 1")
        whole_in = span("recovery", recovery, 1, 86_400)
        self.policy = AdaptivePolicy(
            floor=max(math.ceil(floor * WHOLE), WHOLE // 20),
            cut=max(int(cut * WHOLE), 1),
            step=max(WHOLE * SECOND // whole_in, 1),
        )

    def __repr__(self) -> str:
        return f"Adaptive(floor={self.policy.floor / WHOLE:.2g})"


def _integer(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DeclarationError(field, f"{value!r} is out of range", f"Give {low} to {high}")


@checked
class UpstreamDeclaration:
    """A third-party API as the fleet sees it.

    Args:
        name: unique in the fleet; all its keys share the hash tag ``{name}``.
        limits: every one of them must allow a call.
        max_wait: seconds, or a timedelta, that a task may wait for its slot in total, over all
            deferrals; an hour, or as long as the slowest limit takes to earn its burst, unless it
            is given. Beyond it the task becomes a dead letter (``deferral_budget_exhausted``).
        breaker: stops calling while the upstream fails; none by default.
        adaptive: lowers the declared rates while the upstream drops calls; not by default.
        store_down: what happens while the limiter store does not answer. ``"closed"``: tasks
            wait. ``"open"``: they call unlimited. ``"local"``: each worker enforces its
            share of the limits by itself. Tasks that are not idempotent wait in any case.
        fair_by: the task argument whose values, the tenants, take turns while tasks are parked. By
            default those take turns that have the same ``per=`` values.
        weights: by tenant, turns for each turn of one that is not named; whole numbers.
        reserve: the share of every rate that is kept for tasks of the priorities ``urgent``,
            0 to 0.9.
        urgent: those priorities, as the broker knows them: RabbitMQ's most urgent is the highest,
            that of Redis is 0.
        max_waiting: with so many tasks parked ``apply_async`` raises
            :class:`~governor.Overloaded`, and it does as well when those there are would take
            longer than ``max_wait``; by default it never does.
        parking: where tasks wait longer than a worker holds them: in the limiter ``"store"``, or
            in the ``"broker"``, with a countdown.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = (
        "adaptive", "breaker", "fair_by", "limits", "max_wait", "max_waiting", "name", "parking",
         "reserve", "store_down", "urgent", "weights",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *limits: Rule,
        max_wait: float | timedelta | EllipsisType = ...,
        breaker: Breaker | None = None,
        adaptive: Adaptive | None = None,
        store_down: StoreDown = "closed",
        fair_by: str | None = None,
        weights: Mapping[str, int] | None = None,
        reserve: float = 0.0,
        urgent: Iterable[int] = (),
        max_waiting: int | None = None,
        parking: Parking = "store",
    ) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise DeclarationError(
                "upstream", f"{name!r} is not a name", "Use letters, digits and . _ - (64 at most)"
            )
        check_limits(limits)
        if breaker is not None and not isinstance(breaker, Breaker):
            raise DeclarationError("breaker", f"{breaker!r} is no Breaker", "Write Breaker()")
        if adaptive is not None and not isinstance(adaptive, Adaptive):
            raise DeclarationError("adaptive", f"{adaptive!r} is no Adaptive", "Write Adaptive()")
        if store_down not in {"closed", "open", "local"}:
            raise DeclarationError(
                "store_down", f"{store_down!r} is no policy", 'Give "closed", "open" or "local"'
            )
        if fair_by is not None and (not isinstance(fair_by, str) or not fair_by.isidentifier()):
            raise DeclarationError(
                "fair_by", f"{fair_by!r} is no argument's name", 'Name one, like fair_by="account"'
            )
        if parking not in {"store", "broker"}:
            raise DeclarationError(
                "parking", f"{parking!r} is no place to wait", 'Give "store" or "broker"'
            )
        if max_waiting is not None:
            _integer("max_waiting", max_waiting, 1, 100_000_000)
        self.fair_by = fair_by
        self.weights = _weights(weights or {}, fair_by)
        self.reserve, self.urgent = _reserve(reserve, urgent)
        self.max_waiting = max_waiting
        self.parking = parking
        self.name = name
        self.breaker = None if breaker is None else breaker.policy
        self.adaptive = None if adaptive is None else adaptive.policy
        self.store_down = store_down
        self.limits = limits
        if max_wait is ...:
            self.max_wait = _enough_wait(limits)
        else:
            self.max_wait = span("max_wait", max_wait, 0.001, 30 * 86_400)

    def __repr__(self) -> str:
        return f"UpstreamDeclaration({', '.join([repr(self.name), *map(repr, self.limits)])})"


def _enough_wait(limits: Sequence[Rule]) -> int:
    """An hour, or as long as the slowest limit takes to earn its burst, or for one span of it."""
    slowest = _WAIT
    for limit in limits:
        if isinstance(limit, Limit):
            slowest = max(slowest, limit.rate.interval(limit.burst))
        elif isinstance(limit, Window):
            slowest = max(slowest, limit.span)
    return min(slowest, _LONGEST_WAIT)


def _weights(weights: Mapping[str, int], fair_by: str | None) -> dict[str, int]:
    if weights and fair_by is None:
        raise DeclarationError("weights", "nobody takes turns by name", 'Add fair_by="…"')
    if not isinstance(weights, Mapping):
        raise DeclarationError("weights", f"{weights!r} is no mapping", 'Write {"a tenant": 3}')
    for tenant, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1_000:
            raise DeclarationError(
                "weights", f"{tenant!r} has the weight {weight!r}", "Give 1 to 1000 turns"
            )
    return {value_name("weights", "a tenant", tenant): weight for tenant, weight in weights.items()}


def _reserve(reserve: float, urgent: Iterable[int]) -> tuple[float, frozenset[int]]:
    if isinstance(reserve, bool) or not isinstance(reserve, int | float) or not 0 <= reserve <= 0.9:
        raise DeclarationError("reserve", f"{reserve!r} is no share", "Give 0 to 0.9")
    try:
        priorities = frozenset(urgent)
    except TypeError:
        priorities = frozenset({-1})
    if not all(isinstance(p, int) and 0 <= p <= 255 for p in priorities):
        raise DeclarationError(
            "urgent",
            f"{urgent!r} are no priorities",
            "Give numbers from 0 to 255, like range(7, 10)",
        )
    if bool(reserve) is not bool(priorities):
        raise DeclarationError(
            "urgent" if reserve else "reserve",
            "a reserve is kept for the tasks of some priorities",
            "Give both, like reserve=0.1, urgent=range(7, 10)",
        )
    return float(reserve), priorities


def check_limits(limits: Sequence[object]) -> None:
    """Refuse what is not a limit, and two limits that would share one bucket.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if not isinstance(limits, list | tuple):
        raise DeclarationError(
            "limits", f"{limits!r} is not a list", 'Write limits=[Limit("100/s")]'
        )
    seen: dict[str, Rule] = {}
    for limit in limits:
        if not isinstance(limit, Rule):
            raise DeclarationError("limits", f"{limit!r} is not a Limit", 'Write Limit("100/s")')
        if limit.key in seen:
            raise DeclarationError(
                "limits",
                f"{limit!r} and {seen[limit.key]!r} count the same calls over the same period",
                'Keep the stricter, or give each a name=, like Limit("100/s", name="reads")',
            )
        seen[limit.key] = limit
