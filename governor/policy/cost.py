"""Costs that are only known at the call, or after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from governor.errors import DeclarationError
from governor.policy.adjustment import Adjustment
from governor.policy.decision import AnyCharge
from governor.policy.limits import Concurrency, Rule, most_word
from governor.policy.plan import CallPlan


def measured(plan: CallPlan) -> tuple[bool, ...]:
    """For each limit, whether it counts what a call turns out to cost.

    Those with a cost function do. Where there is none, those that count a call as one do.
    """
    functions = tuple(callable(limit.cost) for _, limit in plan.limits)
    if any(functions):
        return functions
    return tuple(limit.cost == 1 and not isinstance(limit, Concurrency) for _, limit in plan.limits)


def charges(
    plan: CallPlan, arguments: Mapping[str, Any], cost: int | None = None
) -> tuple[AnyCharge, ...]:
    """Return the charges of a call with these arguments, limit by limit.

    Args:
        cost: of the limits that are measured, instead of what they declare.

    Raises:
        DeclarationError: an argument that a ``per=`` limit needs is missing, or the cost is none
            of its limit.
    """
    _check_arguments(plan, arguments)
    if cost is None:
        return plan.charges((), arguments)
    return tuple(
        limit.charge(bucket, arguments, _checked(limit, cost) if counts else _declared(limit))
        for (bucket, limit), counts in zip(plan.limits, _some(plan), strict=True)
    )


def buckets(plan: CallPlan, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The bucket of every limit that a call with these arguments belongs to.

    Raises:
        DeclarationError: an argument that a ``per=`` limit needs is missing.
    """
    _check_arguments(plan, arguments)
    return tuple(limit.charge(bucket, arguments, 1).bucket for bucket, limit in plan.limits)


def corrections(
    plan: CallPlan, charged: Sequence[AnyCharge], cost: int, before: int | None = None
) -> tuple[Adjustment, ...]:
    """Return the corrections that make a charged call count as one of ``cost``.

    Args:
        charged: what it was charged, limit by limit.
        cost: what it turned out to cost; 0 gives everything back.
        before: what it was corrected to already.

    Raises:
        DeclarationError: the cost is no number, or nothing is measured.
    """
    if isinstance(cost, bool) or not isinstance(cost, int) or cost < 0:
        raise DeclarationError("cost", f"{cost!r} is not a cost", "Give an integer, 0 or more")
    counts = _some(plan)
    counts = (*counts, *(counts[index] for _, _, index in plan.held_back))
    found = []
    for (_, limit), charge, counted in zip(plan.rules, charged, counts, strict=True):
        more = cost - (charge.cost if before is None else before)
        if counted and more:
            found.append(Adjustment(limit.charge_on(charge.bucket, 1), more))
    return tuple(found)


def _check_arguments(plan: CallPlan, arguments: Mapping[str, Any]) -> None:
    for _, limit in plan.limits:
        if limit.per is not None and limit.per not in arguments:
            raise DeclarationError(
                limit.per,
                f"limit {limit.name} of upstream {plan.upstream.name!r} has a bucket for each of "
                "its values, and the call names none",
                f"Add {limit.per}=… to the call",
            )


def _some(plan: CallPlan) -> tuple[bool, ...]:
    counts = measured(plan)
    if not any(counts):
        raise DeclarationError(
            "cost",
            f"no limit of upstream {plan.upstream.name!r} counts what a call turns out to cost",
            "Give the limit that does a cost function, like cost=estimate",
        )
    return counts


def _declared(limit: Rule) -> int:
    assert isinstance(limit.cost, int)
    return limit.cost


def _checked(limit: Rule, cost: int) -> int:
    if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= limit.most:
        raise DeclarationError(
            "cost",
            f"{cost!r} is no cost of limit {limit.name}",
            f"Give an integer from 1 to its {most_word(limit)}, {limit.most}",
        )
    return cost
