"""Declarations: a limit of an upstream, and the upstream itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from governor.clock import SECOND, micros
from governor.errors import DeclarationError
from governor.keys import digest
from governor.policy.decision import Charge
from governor.policy.rate import Rate

Cost = int | Callable[..., int]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PERIODS = {1: "s", 60: "m", 3600: "h", 86_400: "d"}


class Limit:
    """A leaky bucket: at most ``rate`` on average, at most ``burst`` at once, fleet-wide.

    Declare what the upstream itself enforces. The governor keeps a distance from it: a call
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

    __slots__ = ("burst", "cost", "key", "margin", "name", "per", "rate")

    def __init__(
        self,
        rate: str,
        *,
        burst: int = 1,
        per: str | None = None,
        cost: Cost = 1,
        margin: float = 0.05,
        name: str | None = None,
    ) -> None:
        self.rate = Rate.parse(rate)
        if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
            raise DeclarationError(
                "burst", f"{burst!r} is not a number of calls", "Give an integer, 1 or more"
            )
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
        if not callable(cost) and cost > burst:
            raise DeclarationError(
                "cost",
                f"{cost} is above the burst of {burst}: such a call could never be made",
                f"Declare burst={cost} or more",
            )
        if not 0 <= margin <= 10:
            raise DeclarationError(
                "margin", f"{margin!r} is not between 0 and 10 seconds", "Give seconds, like 0.05"
            )
        if name is not None and not _NAME.fullmatch(name):
            raise DeclarationError(
                "name", f"{name!r} is not a name", "Use letters, digits and . _ - (64 at most)"
            )
        self.burst = burst
        self.per = per
        self.cost = cost
        self.margin = micros(margin)
        self.name = name or (f"{self.rate} per {per}" if per else str(self.rate))
        # The key outlives a change of the rate: it is made of what the bucket counts.
        period = _PERIODS.get(self.rate.period // SECOND, str(self.rate.period))
        self.key = name or (f"{period}.{per}" if per else period)

    def charge(self, bucket: str, arguments: Mapping[str, Any], cost: int) -> Charge:
        """The charge of ``cost`` on the bucket these arguments belong to."""
        if self.per is not None:
            bucket = f"{bucket}:{digest(arguments.get(self.per))}"
        return self.charge_on(bucket, cost)

    def charge_on(self, bucket: str, cost: int) -> Charge:
        """The charge of ``cost`` on ``bucket``."""
        interval = self.rate.interval(cost)
        capacity = max(self.rate.interval(self.burst) - self.margin, interval)
        return Charge(bucket, self.name, interval, capacity)

    def __repr__(self) -> str:
        per = f", per={self.per!r}" if self.per else ""
        return f"Limit({str(self.rate)!r}, burst={self.burst}{per})"


class Upstream:
    """A third-party API as the fleet sees it.

    Args:
        name: unique in the fleet; all its keys share the hash tag ``{name}``.
        limits: every one of them must allow a call.
        max_wait: seconds a task may wait for its slot in total, over all deferrals; beyond
            it the task becomes a dead letter (``deferral_budget_exhausted``).

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("limits", "max_wait", "name")

    def __init__(self, name: str, *limits: Limit, max_wait: float = 3600.0) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DeclarationError(
                "upstream", f"{name!r} is not a name", "Use letters, digits and . _ - (64 at most)"
            )
        if not 0 < max_wait <= 30 * 86_400:
            raise DeclarationError(
                "max_wait", f"{max_wait!r} is not a wait", "Give seconds, at most 30 days"
            )
        check_limits(limits)
        self.name = name
        self.limits = limits
        self.max_wait = micros(max_wait)

    def __repr__(self) -> str:
        return f"Upstream({', '.join([repr(self.name), *map(repr, self.limits)])})"


def check_limits(limits: Sequence[object]) -> None:
    """Refuse what is not a limit, and two limits that would share one bucket.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if not isinstance(limits, list | tuple):
        raise DeclarationError(
            "limits", f"{limits!r} is not a list", 'Write limits=[Limit("100/s")]'
        )
    seen: dict[str, Limit] = {}
    for limit in limits:
        if not isinstance(limit, Limit):
            raise DeclarationError("limits", f"{limit!r} is not a Limit", 'Write Limit("100/s")')
        if limit.key in seen:
            raise DeclarationError(
                "limits",
                f"{limit!r} and {seen[limit.key]!r} count the same calls over the same period",
                'Keep the stricter, or give each a name=, like Limit("100/s", name="reads")',
            )
        seen[limit.key] = limit


@dataclass(frozen=True, slots=True)
class CallPlan:
    """How the calls of one task type are charged: its upstream's limits, and its own.

    Attributes:
        task: the task type's name.
        limits: each with the name of its bucket, without a ``per=`` value.
    """

    task: str
    upstream: Upstream
    limits: tuple[tuple[str, Limit], ...]
    signature: inspect.Signature | None

    @classmethod
    def of(
        cls,
        task: str,
        upstream: Upstream,
        own: Sequence[Limit] = (),
        signature: inspect.Signature | None = None,
    ) -> CallPlan:
        """Check the limits against the task's signature.

        Raises:
            DeclarationError: an unknown ``per`` argument, or two limits with one bucket.
        """
        check_limits(own)
        limits = [(limit.key, limit) for limit in upstream.limits]
        limits += [(f"t.{digest(task)}.{limit.key}", limit) for limit in own]
        for _, limit in limits:
            if limit.per is not None and signature is not None:
                _check_per(task, limit, signature)
        return cls(task, upstream, tuple(limits), signature)

    def names(self) -> tuple[str, ...]:
        """The positional parameters' names, in order."""
        if self.signature is None:
            return ()
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        return tuple(p.name for p in self.signature.parameters.values() if p.kind in positional)

    def costs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """Each limit's cost of a call with these arguments.

        Raises:
            DeclarationError: a cost callable failed, or its answer is not between 1 and the burst.
        """
        return tuple(self._cost(limit, args, kwargs) for _, limit in self.limits)

    def _cost(self, limit: Limit, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        if not callable(limit.cost):
            return limit.cost
        try:
            cost = limit.cost(*args, **kwargs)
        except Exception as exc:
            raise DeclarationError(
                "cost",
                f"the cost function of {limit.name} failed with {type(exc).__name__}",
                f"It must accept the arguments of {self.task}",
            ) from exc
        if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= limit.burst:
            raise DeclarationError(
                "cost",
                f"the cost function of {limit.name} answered {cost!r}",
                f"It must answer an integer from 1 to the burst of {limit.burst}",
            )
        return cost

    def charges(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Charge, ...]:
        """What one call with these arguments takes from every limit.

        Raises:
            DeclarationError: see :meth:`costs`.
        """
        arguments = self._bind(args, kwargs)
        return tuple(
            limit.charge(bucket, arguments, cost)
            for (bucket, limit), cost in zip(self.limits, self.costs(args, kwargs), strict=True)
        )

    def charges_named(self, costs: Mapping[str, int]) -> tuple[Charge, ...] | None:
        """The charges for buckets a producer has named with their costs; ``None`` when they are
        not those of these limits, as after a change of the declaration."""
        if len(costs) != len(self.limits):
            return None
        charges = []
        for (bucket, limit), (named, cost) in zip(self.limits, costs.items(), strict=True):
            expected = named.rpartition(":")[0] if limit.per is not None else named
            if expected != bucket or not 1 <= cost <= limit.burst:
                return None
            charges.append(limit.charge_on(named, cost))
        return tuple(charges)

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not any(limit.per for _, limit in self.limits):
            return {}
        if self.signature is None:
            return kwargs
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            # The body will fail with this very TypeError; until then it is charged like a
            # call that named no value.
            return kwargs
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for parameter in self.signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
        return arguments


def _check_per(task: str, limit: Limit, signature: inspect.Signature) -> None:
    parameters = signature.parameters
    if limit.per in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    ):
        return
    known = ", ".join(parameters) or "none"
    raise DeclarationError(
        "per",
        f"task {task} has no argument {limit.per!r} (it has: {known})",
        f"Name one of its arguments, or add {limit.per!r} to the task",
    )
