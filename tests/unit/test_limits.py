"""Declarations of limits and upstreams, and what a call is charged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from governor import DeclarationError, Limit, Upstream
from governor.clock import SECOND
from governor.policy.plan import CallPlan

# what is declared, the field that is refused
REFUSED: list[tuple[Callable[[], object], str]] = [
    # no unit
    (lambda: Limit("100"), "rate"),
    # a burst that admits nobody
    (lambda: Limit("1/s", burst=0), "burst"),
    # a cost nobody could ever pay
    (lambda: Limit("1/s", burst=2, cost=3), "cost"),
    # a cost that is none
    (lambda: Limit("1/s", cost=0), "cost"),
    # an argument's name with a blank in it
    (lambda: Limit("1/s", per="the account"), "per"),
    # a margin in milliseconds
    (lambda: Limit("1/s", margin=50), "margin"),
    # a name that would break a key
    (lambda: Limit("1/s", name="a b"), "name"),
    (lambda: Limit("1/s", name="claim"), "name"),
    # an upstream's name that would break its hash tag
    (lambda: Upstream("a{b}"), "upstream"),
    # nobody may wait
    (lambda: Upstream("api", max_wait=0), "max_wait"),
    # something that is no limit
    (lambda: Upstream("api", "100/s"), "limits"),  # type: ignore[arg-type]
    # two limits that would share one bucket
    (lambda: Upstream("api", Limit("1/s"), Limit("2/s")), "limits"),
]


@pytest.mark.parametrize(("declare", "field"), REFUSED)
def test_a_wrong_declaration_names_its_field(declare: Callable[[], object], field: str) -> None:
    """What cannot work is refused where it is written, with the field and a remedy."""
    with pytest.raises(DeclarationError) as caught:
        declare()
    assert caught.value.field == field
    assert caught.value.remedy


def plan(limit: Limit, function: Callable[..., Any]) -> CallPlan:
    return CallPlan.of("task", Upstream("api", limit), (), inspect.signature(function))


def charge(account: str, amount: int = 1, *, force: bool = False) -> None:
    """A task's function."""


# burst, margin in seconds, calls of the effective burst at 100/s
BURSTS = [
    # without a margin it is the declared one
    (20, 0.0, 20),
    # 50 ms are five calls at 100/s
    (20, 0.05, 15),
    # never less than one call
    (3, 0.05, 1),
    (1, 0.05, 1),
]


@pytest.mark.parametrize(("burst", "margin", "effective"), BURSTS)
def test_the_effective_burst(burst: int, margin: float, effective: int) -> None:
    """The burst less what the rate lets through in the margin, and at least one call."""
    (found,) = plan(Limit("100/s", burst=burst, margin=margin), charge).charges(("a",), {})
    assert found.interval == SECOND // 100
    assert found.capacity == effective * found.interval


def test_one_bucket_for_each_value() -> None:
    """``per`` tells accounts apart however the argument is passed, and hides its value."""
    limit = plan(Limit("10/s", per="account"), charge)
    (positional,) = limit.charges(("acct_1",), {})
    (named,) = limit.charges((), {"account": "acct_1"})
    (other,) = limit.charges(("acct_2",), {})
    assert positional.bucket == named.bucket != other.bucket
    assert "acct_1" not in positional.bucket


def test_a_default_is_a_value() -> None:
    """An argument left to its default belongs to the bucket of that value."""
    limit = plan(Limit("10/s", per="amount"), charge)
    assert limit.charges(("a",), {}) == limit.charges(("a", 1), {})


def test_cost_may_depend_on_the_arguments() -> None:
    """A cost function is given the task's arguments."""
    limit = plan(Limit("10/s", burst=5, cost=lambda account, amount: amount), charge)
    (found,) = limit.charges(("a",), {"amount": 4})
    assert found.interval == 4 * SECOND // 10


# a cost function, why it is refused
COSTS: list[Callable[..., Any]] = [
    # above the burst: such a call could never be made
    lambda account: 6,
    # no number
    lambda account: "many",
    # it fails
    lambda account: 1 // 0,
]


@pytest.mark.parametrize("cost", COSTS)
def test_a_cost_that_cannot_be_charged_is_refused(cost: Callable[..., int]) -> None:
    """A cost function's wrong answer is an error that names the field."""
    limit = plan(Limit("10/s", burst=5, cost=cost), charge)
    with pytest.raises(DeclarationError) as caught:
        limit.charges(("a",), {})
    assert caught.value.field == "cost"


def test_an_unknown_per_argument_is_refused() -> None:
    """A limit per something the task does not have fails at declaration, naming what it has."""
    with pytest.raises(DeclarationError, match="account, amount, force"):
        plan(Limit("10/s", per="customer"), charge)


def test_a_producers_buckets_are_believed_while_the_declaration_is_the_same() -> None:
    """A worker takes the charges from the header, and computes them when they do not fit."""
    limit = plan(Limit("10/s", burst=5, per="account"), charge)
    (computed,) = limit.charges(("a",), {})
    assert limit.charges_named({computed.bucket: 1}) == (computed,)
    assert limit.charges_named({"another": 1}) is None
    assert limit.charges_named({computed.bucket: 99}) is None
    assert limit.charges_named({}) is None
