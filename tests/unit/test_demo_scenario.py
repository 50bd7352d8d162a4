"""The demo's scenario has what it promises, and its ideal can be worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from governor.demo import scenario
from governor.demo.scenario import PlannedTask, ideal_micros, plan_mixed, plan_uniform, run_of
from governor.demo.upstream import Api
from governor.policy.limits import Limit

SECOND = 1_000_000


@pytest.mark.parametrize("count", [1, 7, 100, 1000, 1234])
def test_as_many_tasks_as_asked_for(count: int) -> None:
    """Any number of tasks is planned exactly, each with an id of its own in one run."""
    planned = plan_mixed(count, with_crash=True)
    assert len(planned) == len({task.task_id for task in planned}) == count
    assert len({run_of(task.task_id) for task in planned}) == 1


def test_two_runs_differ_in_nothing_but_their_ids() -> None:
    """The same tasks in the same order meet the same faults; their ids never meet."""
    first, second = plan_mixed(300, with_crash=True), plan_mixed(300, with_crash=True)
    assert [(t.task, t.kwargs) for t in first] == [(t.task, t.kwargs) for t in second]
    assert [t.task_id[-12:] for t in first] == [t.task_id[-12:] for t in second]
    assert run_of(first[0].task_id) != run_of(second[0].task_id)


def test_the_mix() -> None:
    """Three upstreams, tenants of very different size, some inputs that are refused for good,
    and exactly one crash, where it is asked for."""
    planned = plan_mixed(1000, with_crash=True)
    assert Counter(task.upstream for task in planned) == {
        "stripe": 560,
        "github": 360,
        "shopify": 80,
    }
    accounts = Counter(t.kwargs["account"] for t in planned if "account" in t.kwargs)
    assert accounts["acme"] > 10 * accounts["hooli"] > 0
    assert any(task.kwargs.get("card") == "declined" for task in planned)
    assert [t.task for t in planned if t.kwargs.get("dies")] == [scenario.PAYOUT]
    assert not any("dies" in task.kwargs for task in plan_mixed(1000, with_crash=False))


def test_every_upstream_of_the_mix_is_served() -> None:
    """Each planned upstream is an API of the stand-in, and its configuration is valid."""
    apis = {Api(config, seed=1).name for config in scenario.MIXED_APIS}
    assert apis == {task.upstream for task in plan_mixed(1000, with_crash=False)}


RATE, PER_SHOP = Limit("10/s", burst=4), Limit("1/s", burst=2, per="shop")
IDEALS: list[tuple[str, list[PlannedTask], list[Limit], int]] = [
    ("24 tasks, 4 at once, then 10 a second: 2 s", plan_uniform(24), [RATE], 2 * SECOND),
    ("within the burst: no time at all", plan_uniform(4), [RATE], 0),
    ("nothing to do", [], [RATE], 0),
    (
        "the largest account decides: shop a has 5, 2 at once, then one a second",
        [
            PlannedTask(f"r-{n}", scenario.UNIFORM, "api", {"shop": shop})
            for n, shop in enumerate("aaaaabbc")
        ],
        [RATE, PER_SHOP],
        3 * SECOND,
    ),
]


@pytest.mark.parametrize(
    ("planned", "limits", "expected"), [pytest.param(*row[1:], id=row[0]) for row in IDEALS]
)
def test_ideal(planned: list[PlannedTask], limits: list[Limit], expected: int) -> None:
    """The ideal makespan is (n - burst) / rate of the bucket that takes longest."""
    assert ideal_micros(planned, {scenario.UNIFORM: limits}) == expected
