"""Wrong declarations fail when the task is declared, naming the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from governor import DeclarationError, GovernedTask, Governor, Limit, Retry, Upstream

api = Upstream("api", Limit("10/s", burst=5))
RETRY = Retry(on=ConnectionError)


def declare(run: Callable[..., Any], base: type = GovernedTask, **options: Any) -> Any:
    """A task on an app of its own, as ``@app.task`` makes it once the app is used."""
    app = Celery("declarations", broker="memory://", set_as_current=False)
    Governor(app)
    task = app.task(base=base, name="billing.charge", shared=False, **options)(run)
    app.finalize()
    return app.tasks[task.name]


def charge(account: str, amount: int) -> None: ...


def anything(**kwargs: Any) -> None: ...


# options of the task, the field the error must name
WRONG_TASKS = [
    # the upstream is named, not given
    ({"upstream": "stripe"}, "upstream"),
    # a limit per an argument the task does not have
    ({"upstream": Upstream("u", Limit("1/s", per="acount"))}, "per"),
    # the same among the task's own limits
    ({"upstream": api, "limits": [Limit("1/s", per="shop")]}, "per"),
    # a rate where a limit belongs
    ({"upstream": api, "limits": ["10/s"]}, "limits"),
    # one limit, not a sequence of them
    ({"upstream": api, "limits": Limit("10/s")}, "limits"),
    # two limits of the same period would share one bucket
    ({"upstream": api, "limits": [Limit("1/s"), Limit("2/s")]}, "limits"),
    # a call that must not happen twice is not made again
    ({"upstream": api, "retry": RETRY}, "retry"),
    ({"upstream": api, "autoretry_for": (ConnectionError,)}, "autoretry_for"),
    # not a policy
    ({"upstream": api, "idempotent": True, "retry": 5}, "retry"),
    # acknowledged before it runs: lost with its worker
    ({"upstream": api, "acks_late": False}, "acks_late"),
    # these would deliver it again after its dead letter was written
    ({"upstream": api, "reject_on_worker_lost": True}, "reject_on_worker_lost"),
    ({"upstream": api, "acks_on_failure_or_timeout": False}, "acks_on_failure_or_timeout"),
    # options of governed tasks on one that names no upstream
    ({"idempotent": True}, "idempotent"),
    ({"retry": RETRY}, "retry"),
    ({"limits": [Limit("1/s")]}, "limits"),
]


@pytest.mark.parametrize(("options", "field"), WRONG_TASKS)
def test_a_wrong_task_is_refused(options: dict[str, Any], field: str) -> None:
    """The error names the field, the task or value, and a remedy."""
    with pytest.raises(DeclarationError) as caught:
        declare(charge, **options)
    assert caught.value.field == field
    assert caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(("options", "field"), WRONG_TASKS)
def test_a_wrong_base_class_is_refused(options: dict[str, Any], field: str) -> None:
    """Options declared on a base class count like those of the decorator."""
    with pytest.raises(DeclarationError) as caught:
        declare(charge, type("Base", (GovernedTask,), {**options, "abstract": True}))
    assert caught.value.field == field


# how a limit or upstream is made, the field the error must name
WRONG_PARTS = [
    # without a period
    (lambda: Limit("100"), "rate"),
    (lambda: Limit(100), "rate"),
    # never allows a call
    (lambda: Limit("0/s"), "rate"),
    (lambda: Limit("-1/s"), "rate"),
    (lambda: Limit("10/s", burst=0), "burst"),
    (lambda: Limit("10/s", burst=1.5), "burst"),
    (lambda: Limit("10/s", burst=True), "burst"),
    # above the burst: the call could never be made
    (lambda: Limit("10/s", burst=2, cost=3), "cost"),
    (lambda: Limit("10/s", cost=0), "cost"),
    (lambda: Limit("10/s", per="a.b"), "per"),
    (lambda: Limit("10/s", margin=-1), "margin"),
    (lambda: Limit("10/s", name="two words"), "name"),
    (lambda: Upstream(""), "upstream"),
    # would end the hash tag of its keys
    (lambda: Upstream("a}b"), "upstream"),
    (lambda: Upstream("api", "10/s"), "limits"),
    (lambda: Upstream("api", max_wait=0), "max_wait"),
]


@pytest.mark.parametrize(("make", "field"), WRONG_PARTS)
def test_a_wrong_part_is_refused(make: Callable[[], Any], field: str) -> None:
    """A limit or upstream that cannot work says so where it is written."""
    with pytest.raises(DeclarationError) as caught:
        make()
    assert caught.value.field == field
    assert caught.value.remedy


# what is right and looks wrong: the body, the options
RIGHT = [
    # every argument may come by keyword
    (anything, {"upstream": Upstream("u", Limit("1/s", per="account"))}),
    # the same period twice, counted per another argument or under another name
    (charge, {"upstream": Upstream("u", Limit("9/s"), Limit("5/s", per="account"))}),
    (charge, {"upstream": api, "limits": [Limit("1/s", name="writes")]}),
    (charge, {"upstream": api, "idempotent": True, "retry": RETRY}),
    (charge, {"upstream": api, "idempotent": True, "autoretry_for": (KeyError,)}),
    (charge, {"upstream": api, "acks_late": True}),
    # ordinary tasks keep all their options
    (charge, {"acks_late": False, "autoretry_for": (KeyError,), "reject_on_worker_lost": True}),
]


@pytest.mark.parametrize(("run", "options"), RIGHT)
def test_a_right_task_is_accepted(run: Callable[..., Any], options: dict[str, Any]) -> None:
    """What can work is declared without complaint; governed tasks are acknowledged late."""
    task = declare(run, **options)
    assert task.acks_late is (options.get("acks_late", "upstream" in options))


# the cost function of a limit with burst 5, a part of the error
COSTS = [
    (lambda account, amount: amount, "answered 9"),
    (lambda account, amount: 0, "answered 0"),
    (lambda account, amount: True, "answered True"),
    # it does not accept the task's arguments
    (lambda account: 1, "failed with TypeError"),
]


@pytest.mark.parametrize(("cost", "said"), COSTS)
def test_a_cost_that_cannot_be_paid_fails_at_the_producer(
    cost: Callable[..., int], said: str
) -> None:
    """A cost function's wrong answer reaches the one who publishes, not a worker."""
    task = declare(charge, upstream=Upstream("u", Limit("10/s", burst=5, cost=cost)))
    with pytest.raises(DeclarationError, match=said) as caught:
        task.delay("acct", 9)
    assert caught.value.field == "cost"
