"""Costs that are only known at the call, or after it."""

from __future__ import annotations

from typing import Any

import pytest

from governor import Concurrency, DeclarationError, Limit, Upstream, Window
from governor.policy import cost
from governor.policy.plan import CallPlan

CALLS = Limit("10/s", burst=10, margin=0, name="calls")
FIXED = Limit("9/s", burst=10, cost=3, margin=0, name="fixed")
TOKENS = Window(1_000, per_seconds=60, cost=lambda **_: 7, margin=0, name="tokens")
FLIGHT = Concurrency(4)
PER_ACCOUNT = Limit("8/s", burst=10, margin=0, per="account", name="account")


def plan(*limits: Any) -> CallPlan:
    return CallPlan.of("task", Upstream("api", *limits))


# the limits, which of them count what a call turns out to cost
MEASURED = [
    # a limit that counts each call as one
    ([CALLS], (True,)),
    # one that counts each as three says what it means, and flights are no amount
    ([FIXED, FLIGHT], (False, False)),
    ([CALLS, FIXED, FLIGHT], (True, False, False)),
    # where one has a cost function, it alone
    ([CALLS, TOKENS], (False, True)),
]


@pytest.mark.parametrize(("limits", "counts"), MEASURED)
def test_which_limits_are_measured(limits: list[Any], counts: tuple[bool, ...]) -> None:
    """Limits with a cost function are measured; without any, those that count a call as one."""
    assert cost.measured(plan(*limits)) == counts


# the limits, the cost given at the call, the cost charged to each
CHARGED = [
    # none is given: what is declared
    ([CALLS, FIXED], None, [1, 3]),
    ([CALLS, TOKENS], None, [1, 7]),
    # one is given: for those that are measured
    ([CALLS, FIXED], 5, [5, 3]),
    # all of the burst
    ([CALLS, FIXED], 10, [10, 3]),
    ([CALLS, TOKENS], 500, [1, 500]),
]


@pytest.mark.parametrize(("limits", "given", "charged"), CHARGED)
def test_what_a_call_is_charged(limits: list[Any], given: int | None, charged: list[int]) -> None:
    """A cost given at the call stands in place of the declared one where it is measured."""
    assert [charge.cost for charge in cost.charges(plan(*limits), {}, given)] == charged


# what is wrong, the field that the error names
WRONG = [
    # more than the burst could never be admitted
    (lambda: cost.charges(plan(CALLS), {}, 11), "cost"),
    # a call that costs nothing needs no limit
    (lambda: cost.charges(plan(CALLS), {}, 0), "cost"),
    (lambda: cost.charges(plan(CALLS), {}, True), "cost"),
    # nothing of it is measured
    (lambda: cost.charges(plan(FIXED), {}, 2), "cost"),
    (lambda: cost.corrections(plan(FIXED), cost.charges(plan(FIXED), {}), 2), "cost"),
    # a correction to less than nothing
    (lambda: cost.corrections(plan(CALLS), cost.charges(plan(CALLS), {}), -1), "cost"),
    # which account?
    (lambda: cost.charges(plan(PER_ACCOUNT), {}), "account"),
    (lambda: cost.buckets(plan(PER_ACCOUNT), {}), "account"),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG)
def test_a_cost_that_cannot_be_is_refused(wrong: Any, field: str) -> None:
    """The error names the field."""
    with pytest.raises(DeclarationError) as caught:
        wrong()
    assert caught.value.field == field


# the limits, what the call turned out to cost, what it was corrected to before, units to add
CORRECTED = [
    # three instead of one
    ([CALLS], 3, None, [("calls", 2)]),
    # it did not happen after all
    ([CALLS], 0, None, [("calls", -1)]),
    # as expected: nothing to correct
    ([CALLS], 1, None, []),
    # a second correction starts from the first
    ([CALLS], 5, 3, [("calls", 2)]),
    # only where it is measured
    ([CALLS, TOKENS, FLIGHT], 10, None, [("tokens", 3)]),
]


@pytest.mark.parametrize(("limits", "turned_out", "before", "more"), CORRECTED)
def test_corrections(
    limits: list[Any], turned_out: int, before: int | None, more: list[tuple[str, int]]
) -> None:
    """A correction adds the difference to the bucket that was charged."""
    charged = cost.charges(plan(*limits), {})
    found = cost.corrections(plan(*limits), charged, turned_out, before)
    assert [(each.charge.bucket, each.more) for each in found] == more
    assert all(each.charge.cost == 1 for each in found)


def test_a_correction_counts_in_what_is_held_back_too() -> None:
    """A task that leaves a reserve to urgent ones is corrected in both of its buckets."""
    reserved = CallPlan.of(
        "task", Upstream("api", CALLS, reserve=0.5, urgent=[9])
    ).leaving_reserve()
    found = cost.corrections(reserved, cost.charges(reserved, {}), 3)
    assert [(each.charge.bucket, each.more) for each in found] == [("calls", 2), ("less.calls", 2)]


def test_a_bucket_for_each_account() -> None:
    """Buckets are those that the call is charged to."""
    (bucket,) = cost.buckets(plan(PER_ACCOUNT), {"account": "acme"})
    (charge,) = cost.charges(plan(PER_ACCOUNT), {"account": "acme"})
    assert bucket == charge.bucket
    assert cost.buckets(plan(PER_ACCOUNT), {"account": "other"}) != (bucket,)
