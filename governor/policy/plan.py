"""How the calls of one task type are charged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from governor.errors import DeclarationError
from governor.keys import digest
from governor.policy.decision import AnyCharge
from governor.policy.limits import Limit, Rule, value_name
from governor.policy.retry import Retry
from governor.policy.upstream import UpstreamDeclaration, check_limits

_NAMED = frozenset({str, int, float, bool, type(None)})
"""Types whose values all have names."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """The limits to which calls of one task type are charged: its upstream's, and its own.

    Attributes:
        task: the task type's name.
        limits: each with the name of its bucket, without a ``per=`` value.
        held_back: for tasks that must leave the upstream's reserve to urgent ones: further limits,
            each as strict as one of ``limits`` less the reserve, and that one's place.
        rules: every limit that a call is charged to.
        shape: their buckets, without the values of ``per=``.
    """

    task: str
    upstream: UpstreamDeclaration
    limits: tuple[tuple[str, Rule], ...]
    signature: inspect.Signature | None
    held_back: tuple[tuple[str, Rule, int], ...] = ()
    rules: tuple[tuple[str, Rule], ...] = field(init=False, repr=False, compare=False)
    shape: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = (*self.limits, *((bucket, rule) for bucket, rule, _ in self.held_back))
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "shape", tuple(bucket for bucket, _ in rules))

    @classmethod
    def of(
        cls,
        task: str,
        upstream: UpstreamDeclaration,
        own: Sequence[Rule] = (),
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
                _check_argument("per", task, limit.per, signature)
            if limit.asks and signature is not None:
                _check_cost(task, limit, signature)
        if upstream.fair_by is not None and signature is not None:
            _check_argument("fair_by", task, upstream.fair_by, signature)
        return cls(task, upstream, tuple(limits), signature)

    def leaving_reserve(self) -> CallPlan:
        """Return this plan for a task that is not urgent."""
        reserve = self.upstream.reserve
        if not reserve:
            return self
        held_back = tuple(
            (f"less.{bucket}", limit.less(reserve), index)
            for index, (bucket, limit) in enumerate(self.limits)
            if isinstance(limit, Limit)
        )
        return replace(self, held_back=held_back)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments by which a call cannot be charged or take its turn.

        Raises:
            DeclarationError: see :meth:`charges` and :meth:`tenant`.
        """
        if any(callable(limit.cost) for _, limit in self.limits):
            self.costs(args, kwargs)
        if _NAMED.issuperset(map(type, args)) and _NAMED.issuperset(map(type, kwargs.values())):
            return
        arguments = self._bind(args, kwargs)
        for _, limit in self.limits:
            if limit.per is not None:
                value_name("per", limit.per, arguments.get(limit.per))
        self.tenant(args, kwargs)

    def tenant(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """The name of the value of the argument that the upstream is fair by; ``None`` without one.

        Raises:
            DeclarationError: the value has none.
        """
        fair_by = self.upstream.fair_by
        if fair_by is None:
            return None
        return value_name("fair_by", fair_by, self._bind(args, kwargs).get(fair_by, ""))

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
            DeclarationError: a cost callable failed, or its answer is no cost of that limit.
        """
        costs = tuple(self._cost(limit, args, kwargs) for _, limit in self.limits)
        return self._with_held_back(costs)

    def _with_held_back(self, costs: tuple[int, ...]) -> tuple[int, ...]:
        return (
            *costs,
            *(min(costs[index], rule.most) for _, rule, index in self.held_back),
        )

    def _cost(self, limit: Rule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        if not callable(limit.cost):
            return limit.cost
        try:
            cost = self._ask(limit, limit.cost, args, kwargs)
        except Exception as exc:
            raise DeclarationError(
                "cost",
                f"the cost function of {limit.name} failed with {type(exc).__name__}",
                f"It must accept the arguments of {self.task}",
            ) from exc
        if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= limit.most:
            raise DeclarationError(
                "cost",
                f"the cost function of {limit.name} answered {cost!r}",
                f"It must answer an integer from 1 to the limit's {limit.most}",
            )
        return cost

    def _ask(
        self, limit: Rule, cost: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call a cost function with the arguments that it names, wherever the task has them."""
        if limit.asks is None or (self.signature is None and args):
            return cost(*args, **kwargs)
        arguments = self._arguments(args, kwargs)
        if any(each.kind is each.VAR_KEYWORD for each in limit.asks):
            return cost(**arguments)
        return cost(**{e.name: arguments[e.name] for e in limit.asks if e.name in arguments})

    def charges(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[AnyCharge, ...]:
        """Return the charges of one call with these arguments, limit by limit.

        Raises:
            DeclarationError: see :meth:`costs`.
        """
        arguments = self._bind(args, kwargs)
        return tuple(
            limit.charge(bucket, arguments, cost)
            for (bucket, limit), cost in zip(self.rules, self.costs(args, kwargs), strict=True)
        )

    def charges_named(self, costs: Mapping[str, int]) -> tuple[AnyCharge, ...] | None:
        """The charges for buckets a producer has named with their costs; ``None`` when they are
        not those of these limits, as after a change of the declaration."""
        if len(costs) != len(self.limits):
            return None
        charges = []
        values = []
        for (bucket, limit), (named, cost) in zip(self.limits, costs.items(), strict=True):
            expected = named.rpartition(":")[0] if limit.per is not None else named
            if expected != bucket or not 1 <= cost <= limit.most:
                return None
            charges.append(_charge_on(limit, named, cost))
            values.append(named[len(bucket) :])
        for bucket, limit, index in self.held_back:
            cost = min(charges[index].cost, limit.most)
            charges.append(_charge_on(limit, bucket + values[index], cost))
        return tuple(charges)

    def changed(self, numbers: Mapping[str, Mapping[str, Any]]) -> CallPlan:
        """Return this plan with other numbers for the limits of these buckets.

        Raises:
            DeclarationError: they are no numbers of that limit.
        """
        limits = tuple(
            (bucket, limit.with_numbers(numbers[bucket]) if bucket in numbers else limit)
            for bucket, limit in self.limits
        )
        changed = replace(self, limits=limits)
        return changed.leaving_reserve() if self.held_back else changed

    def recharged(self, charges: Sequence[AnyCharge]) -> tuple[AnyCharge, ...]:
        """Charge anew what an earlier form of this plan charged, with the numbers of now.

        A call that costs more than is left of a limit takes all of it.
        """
        return tuple(
            limit.charge_on(charge.bucket, min(charge.cost, limit.most))
            for (_, limit), charge in zip(self.rules, charges, strict=True)
        )

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.upstream.fair_by is None and not any(limit.per for _, limit in self.limits):
            return {}
        return self._arguments(args, kwargs)

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
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


@lru_cache(maxsize=4_096)
def _charge_on(limit: Rule, bucket: str, cost: int) -> AnyCharge:
    """Made once for all calls that are charged the same; a limit never changes."""
    return limit.charge_on(bucket, cost)


def _check_argument(field: str, task: str, argument: str, signature: inspect.Signature) -> None:
    parameters = signature.parameters
    if argument in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    ):
        return
    known = ", ".join(parameters) or "none"
    raise DeclarationError(
        field,
        f"task {task} has no argument {argument!r} (it has: {known})",
        f"Name one of its arguments, or add {argument!r} to the task",
    )


def _check_cost(task: str, limit: Rule, signature: inspect.Signature) -> None:
    """Refuse a cost function that asks for an argument the task does not have."""
    known = signature.parameters
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return
    for each in limit.asks or ():
        needed = each.default is each.empty and each.kind is not each.VAR_KEYWORD
        if needed and each.name not in known:
            has = ", ".join(known) or "none"
            raise DeclarationError(
                "cost",
                f"the cost function of {limit.name} asks for {each.name!r}, which task {task} does "
                f"not have (it has: {has})",
                "Name its parameters like the task's arguments",
            )


@dataclass(frozen=True, slots=True)
class Governance:
    """The declaration of one governed task type, as far as the governor goes by it."""

    plan: CallPlan
    idempotent: bool
    retry: Retry | None
