"""How the calls of a task type are charged: which limits, which buckets, which numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from governor import Concurrency, DeclarationError, Limit, Upstream, Window
from governor.keys import digest
from governor.policy.plan import CallPlan

SHARED = Limit("10/s", burst=10, margin=0, name="all")
OWN = Limit("2/s", burst=2, margin=0, name="own")
EACH = Limit("5/s", burst=5, margin=0, per="account", name="each")
API = Upstream("api", SHARED, EACH)


def charge(account: str, amount: int = 1, **options: Any) -> None: ...


def planned(
    *own: Any, upstream: Upstream = API, run: Callable[..., Any] | None = charge
) -> CallPlan:
    signature = None if run is None else inspect.signature(run)
    return CallPlan.of("billing.charge", upstream, own, signature)


def each(account: str) -> str:
    return f"each:{digest(account)}"


# positional and keyword arguments, the bucket of the limit that has one for each account
BUCKETS: list[tuple[tuple[Any, ...], Mapping[str, Any], str]] = [
    # however the argument is passed
    (("acme",), {}, each("acme")),
    ((), {"account": "acme"}, each("acme")),
    # another value, another bucket
    (("other",), {}, each("other")),
    # a call that the task would refuse is charged by its keywords, until its body fails
    ((), {"account": "acme", "amount": 1, "nothing": 2}, each("acme")),
]


@pytest.mark.parametrize(("args", "kwargs", "bucket"), BUCKETS)
def test_the_buckets_of_a_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], bucket: str
) -> None:
    """A call is charged to every limit of its upstream, and to the bucket of its arguments."""
    assert [one.bucket for one in planned().charges(args, kwargs)] == ["all", bucket]


def test_a_task_types_own_limit_has_a_bucket_of_its_own() -> None:
    """Two task types with equal limits do not share them."""
    one = CallPlan.of("a", API, [OWN])
    other = CallPlan.of("b", API, [OWN])
    assert one.limits[:2] == other.limits[:2]
    assert {bucket for bucket, _ in one.limits[2:]}.isdisjoint(
        bucket for bucket, _ in other.limits[2:]
    )


# the reserve, whether the plan is of an urgent task, the effective calls at once of its buckets
RESERVED = [
    # none
    (0.0, False, [10, 5]),
    # an urgent task takes everything
    (0.2, True, [10, 5]),
    # another one is held back in buckets of four fifths
    (0.2, False, [10, 5, 8, 4]),
]


@pytest.mark.parametrize(("reserve", "urgent", "bursts"), RESERVED)
def test_a_reserve_is_left_to_urgent_tasks(reserve: float, urgent: bool, bursts: list[int]) -> None:
    """Tasks that are not urgent are charged to smaller buckets as well, none less than one call."""
    upstream = Upstream("api", SHARED, EACH, reserve=reserve, urgent=[9] if reserve else [])
    plan = planned(upstream=upstream)
    plan = plan if urgent else plan.leaving_reserve()
    assert [rule.most for _, rule in plan.rules] == bursts
    assert len(plan.charges(("acme",), {})) == len(bursts)


def test_a_call_dearer_than_what_is_left_takes_all_of_it() -> None:
    """Half of a burst of ten is kept: a call of eight takes the other half, whoever computes it."""
    dear = Limit("10/s", burst=10, cost=8, margin=0, name="dear", per="account")
    plan = planned(upstream=Upstream("api", dear, reserve=0.5, urgent=[9])).leaving_reserve()
    computed = plan.charges(("acme",), {})
    assert [one.cost for one in computed] == [8, 5]
    assert plan.charges_named({computed[0].bucket: 8}) == computed


def test_only_buckets_keep_a_reserve() -> None:
    """A window, a quota and leases have none to keep."""
    upstream = Upstream("api", SHARED, Concurrency(4), reserve=0.5, urgent=[9])
    plan = CallPlan.of("task", upstream).leaving_reserve()
    assert [bucket for bucket, _, _ in plan.held_back] == ["less.all"]


# the costs a producer named, whether they are believed
NAMED = [
    # buckets and costs as they are declared
    ({"all": 1, each("acme"): 2}, True),
    # another limit
    ({"all": 1, "s:x": 2}, False),
    # one limit fewer, since one was added
    ({"all": 1}, False),
    # a cost that the limit could never give
    ({"all": 1, each("acme"): 6}, False),
    ({"all": 0, each("acme"): 1}, False),
]


@pytest.mark.parametrize(("costs", "believed"), NAMED)
def test_a_producers_charges(costs: Mapping[str, int], believed: bool) -> None:
    """What a producer computed is taken as it is while it fits the declaration."""
    found = planned().charges_named(costs)
    assert (None if found is None else {one.bucket: one.cost for one in found}) == (
        costs if believed else None
    )


def test_other_numbers_keep_the_buckets() -> None:
    """A change of a rate while the fleet runs is charged to the same bucket."""
    plan = planned()
    changed = plan.changed({"all": {"rate": "1/s", "burst": 2}})
    before, after = plan.charges(("acme",), {}), changed.charges(("acme",), {})
    assert [one.bucket for one in before] == [one.bucket for one in after]
    assert (after[0].interval, after[0].capacity) == (1_000_000, 2_000_000)
    assert before[1] == after[1]


def test_charges_made_before_a_change_are_charged_again_with_its_numbers() -> None:
    """A call that costs more than is left of a limit takes all of it."""
    window = Window(10, per_seconds=1, margin=0, cost=8, name="w")
    plan = CallPlan.of("task", Upstream("api", window))
    (old,) = plan.charges((), {})
    (new,) = plan.changed({"w": {"most": 4}}).recharged([old])
    assert (old.cost, new.cost, new.most) == (8, 4, 4)


# the arguments, whether the call can be charged and take its turn
CHECKED: list[tuple[tuple[Any, ...], bool]] = [
    # a text, a number, nothing
    (("acme",), True),
    ((7,), True),
    ((None,), True),
    # a value without a name
    ((object(),), False),
]


@pytest.mark.parametrize(("args", "fine"), CHECKED)
def test_a_value_without_a_name_is_refused_at_the_producer(
    args: tuple[Any, ...], fine: bool
) -> None:
    """The error comes where the call is made, not in the worker."""
    plan = planned(upstream=Upstream("api", SHARED, EACH, fair_by="account"))
    if fine:
        plan.check(args, {})
        assert plan.tenant(args, {}) is not None
    else:
        with pytest.raises(DeclarationError, match="account"):
            plan.check(args, {})


def test_parameters_by_name() -> None:
    """Positional parameters are named in their order; without a signature none is known."""
    assert planned().names() == ("account", "amount")
    assert planned(run=None).names() == ()
