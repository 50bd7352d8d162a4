"""Wrong declarations fail when the task is declared, naming the field."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from governor import (
    Adaptive,
    Breaker,
    Concurrency,
    DeclarationError,
    GovernedTask,
    Governor,
    Limit,
    Quota,
    Retry,
    Upstream,
    Window,
)
from governor.clock import SECOND
from governor.errors import ConfigurationError
from governor.policy.options import checked, span
from governor.policy.plan import CallPlan

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


async def awaits(account: str) -> None: ...


def yields(account: str) -> Iterator[int]:
    yield 1


# options of the task, the field the error must name, a part of what it must say
WRONG_TASKS: list[tuple[dict[str, Any], str, str]] = [
    # the upstream is named, not given
    ({"upstream": "stripe"}, "upstream", 'Write Upstream("stripe"'),
    ({"upstream": 5}, "upstream", "5 is not an Upstream"),
    ({"upstream": Upstream}, "upstream", "is not an Upstream"),
    ({"upstream": [api]}, "upstream", "is not an Upstream"),
    # a limit per an argument the task does not have
    ({"upstream": Upstream("u", Limit("1/s", per="acount"))}, "per", "has: account, amount"),
    ({"upstream": Upstream("u", Concurrency(1, per="acount"))}, "per", "has: account, amount"),
    ({"upstream": Upstream("u", fair_by="shop")}, "fair_by", "has: account, amount"),
    # the same among the task's own limits
    ({"upstream": api, "limits": [Limit("1/s", per="shop")]}, "per", "no argument 'shop'"),
    # a rate where a limit belongs
    ({"upstream": api, "limits": ["10/s"]}, "limits", 'Write Limit("100/s")'),
    # one limit, not a sequence of them
    ({"upstream": api, "limits": Limit("10/s")}, "limits", "Write limits=["),
    ({"upstream": api, "limits": None}, "limits", "is not a list"),
    # two limits of the same period would share one bucket
    ({"upstream": api, "limits": [Limit("1/s"), Limit("2/s")]}, "limits", "give each a name="),
    # a call that must not happen twice is not made again
    ({"upstream": api, "retry": RETRY}, "retry", "Declare idempotent=True"),
    (
        {"upstream": api, "autoretry_for": (ConnectionError,)},
        "autoretry_for",
        "could make its call",
    ),
    # both would answer the same failure
    (
        {"upstream": api, "idempotent": True, "retry": RETRY, "autoretry_for": (KeyError,)},
        "autoretry_for",
        "Keep one",
    ),
    # not a policy
    ({"upstream": api, "idempotent": True, "retry": 5}, "retry", "Write Retry(on=…)"),
    ({"upstream": api, "idempotent": True, "retry": True}, "retry", "Write Retry(on=…)"),
    ({"upstream": api, "idempotent": True, "retry": None}, "retry", "Write Retry(on=…)"),
    # texts and numbers that Python takes for true, or false
    ({"upstream": api, "idempotent": "no"}, "idempotent", "is not True or False"),
    ({"upstream": api, "idempotent": 1}, "idempotent", "is not True or False"),
    ({"upstream": api, "idempotent": None}, "idempotent", "Write idempotent=True"),
    # acknowledged before it runs: lost with its worker
    ({"upstream": api, "acks_late": False}, "acks_late", "Remove acks_late=False"),
    # these would deliver it again after its dead letter was written
    ({"upstream": api, "reject_on_worker_lost": True}, "reject_on_worker_lost", "Remove"),
    (
        {"upstream": api, "acks_on_failure_or_timeout": False},
        "acks_on_failure_or_timeout",
        "Remove",
    ),
    ({"upstream": api, "acks_on_failure": False}, "acks_on_failure", "Remove"),
    ({"upstream": api, "acks_on_timeout": False}, "acks_on_timeout", "Remove"),
    # each worker would hold back what the fleet has admitted
    ({"upstream": api, "rate_limit": "1/s"}, "rate_limit", 'limits=[Limit("1/s")]'),
    # options of governed tasks on one that names no upstream
    ({"idempotent": True}, "idempotent", "Add upstream="),
    ({"retry": RETRY}, "retry", "Add upstream="),
    ({"limits": [Limit("1/s")]}, "limits", "Add upstream="),
    # one letter, and the task would have no limit
    ({"upsteam": api}, "upsteam", "Did you mean upstream?"),
    ({"up_stream": api}, "up_stream", "Did you mean upstream?"),
    ({"Upstream": api}, "Upstream", "Did you mean upstream?"),
    ({"api": api}, "api", "no such option"),
    ({"upstream": api, "idempotant": True}, "idempotant", "Did you mean idempotent?"),
    ({"upstream": api, "idempotent_": True}, "idempotent_", "Did you mean idempotent?"),
    ({"idempotant": True}, "idempotant", "Did you mean idempotent?"),
    ({"upstream": api, "idempotent": True, "retires": RETRY}, "retires", "Did you mean retry?"),
    ({"upstream": api, "limit": Limit("1/s")}, "limit", "Did you mean limits?"),
    ({"limit": [Limit("1/s")]}, "limit", "Did you mean limits?"),
    ({"policy": RETRY}, "policy", "no such option"),
]

# options of the decorator alone: a class may have attributes of its own
WRONG_OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"upstream": api, "priorty": 3}, "priorty", "Did you mean priority?"),
    ({"upstream": api, "queu": "q"}, "queu", "Did you mean queue?"),
    ({"upstream": api, "serialiser": "json"}, "serialiser", "Did you mean serializer?"),
    ({"upstream": api, "max_retry": 3}, "max_retry", "Did you mean max_retries?"),
    ({"upstream": api, "ack_late": True}, "ack_late", "Did you mean acks_late?"),
    ({"upstream": api, "timelimit": 3}, "timelimit", "Did you mean time_limit?"),
    ({"upstream": api, "ignore_results": True}, "ignore_results", "Did you mean ignore_result?"),
    ({"upstream": api, "auto_retry_for": ()}, "auto_retry_for", "Did you mean autoretry_for?"),
    ({"upstream": api, "zzz": 3}, "zzz", "belongs on a base class"),
]


@pytest.mark.parametrize(("options", "field", "said"), WRONG_TASKS + WRONG_OPTIONS)
def test_a_wrong_task_is_refused(options: dict[str, Any], field: str, said: str) -> None:
    """The error names the field, the task or value, and a remedy."""
    with pytest.raises(DeclarationError) as caught:
        declare(charge, **options)
    assert caught.value.field == field
    assert caught.value.problem
    assert caught.value.remedy
    assert said in str(caught.value)


@pytest.mark.parametrize(("options", "field", "said"), WRONG_TASKS)
def test_a_wrong_base_class_is_refused(options: dict[str, Any], field: str, said: str) -> None:
    """Options declared on a base class count like those of the decorator."""
    with pytest.raises(DeclarationError) as caught:
        declare(charge, type("Base", (GovernedTask,), {**options, "abstract": True}))
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize(("run", "said"), [(awaits, "asyncio.run"), (yields, "yield")])
def test_a_body_that_a_worker_would_call_and_not_run_is_refused(
    run: Callable[..., Any], said: str
) -> None:
    """A coroutine or a generator would be the result of a success, and no call would be made."""
    with pytest.raises(DeclarationError, match=said) as caught:
        declare(run, upstream=api)
    assert caught.value.field == "run"
    declare(run)  # plain tasks are Celery's


def test_an_upstream_without_the_base_class_is_refused() -> None:
    """A plain task that names an upstream would run with no limit; so it is no task at all."""
    app = Celery("declarations", broker="memory://", set_as_current=False)
    governor = Governor(app)
    app.task(name="billing.charge", shared=False, upstream=api)(charge)
    with pytest.raises(DeclarationError, match="Add base=GovernedTask"):
        governor.governance("billing.charge")


def test_an_attribute_that_is_called_upstream_is_the_tasks_own() -> None:
    """A plain task may have an attribute of this name that is no declaration."""
    app = Celery("declarations", broker="redis://", set_as_current=False)
    governor = Governor(app)
    app.task(name="git.push", shared=False, upstream="origin")(charge)
    assert governor.governance("git.push") is None
    assert governor.upstreams == {}


@pytest.mark.parametrize("what", ["shop", None, Celery, 5])
def test_a_governor_of_something_else_is_refused(what: Any) -> None:
    """Only an app can be governed."""
    with pytest.raises(ConfigurationError, match="is not a Celery app"):
        Governor(what)


# how a limit, upstream or policy is made, the field the error must name, a part of what it says
WRONG_PARTS: list[tuple[Callable[[], Any], str, str]] = [
    # without a period
    (lambda: Limit("100"), "rate", "100/s"),
    (lambda: Limit(100), "rate", "per what"),  # type: ignore[arg-type]
    (lambda: Limit(None), "rate", "per what"),  # type: ignore[arg-type]
    (lambda: Limit(""), "rate", "is not a rate"),
    (lambda: Limit("many/s"), "rate", "is not a rate"),
    (lambda: Limit("10/fortnight"), "rate", "unit of time"),
    # never allows a call
    (lambda: Limit("0/s"), "rate", "never allows a call"),
    (lambda: Limit("-1/s"), "rate", "is not a rate"),
    (lambda: Limit("1/0s"), "rate", "'1/0s' never allows a call"),
    (lambda: Limit("1/00 day"), "rate", "'1/00 day' never allows a call"),
    # outside what can be kept
    (lambda: Limit("2000000/s"), "rate", "1000000/s"),
    (lambda: Limit("1/31day"), "rate", "30 days"),
    (lambda: Limit("10/s", burst=0), "burst", "1 or more"),
    (lambda: Limit("10/s", burst=1.5), "burst", "integer"),  # type: ignore[arg-type]
    (lambda: Limit("10/s", burst=True), "burst", "integer"),
    (lambda: Limit("10/s", burst="5"), "burst", "integer"),  # type: ignore[arg-type]
    (lambda: Limit("10/s", burst=None), "burst", "integer"),  # type: ignore[arg-type]
    (lambda: Limit("1/day", burst=101), "burst", "100 days"),
    # above the burst: the call could never be made
    (lambda: Limit("10/s", burst=2, cost=3), "cost", "Declare burst=3"),
    (lambda: Window(2, per_seconds=1, cost=3), "cost", "Declare most=3"),
    (lambda: Limit("10/s", cost=0), "cost", "1 or more"),
    (lambda: Limit("10/s", cost=True), "cost", "1 or more"),
    (lambda: Limit("10/s", cost="1"), "cost", "a function"),  # type: ignore[arg-type]
    (lambda: Limit("10/s", margin=-1), "margin", "0 s to 10 s"),
    (lambda: Limit("10/s", margin=11), "margin", "0 s to 10 s"),
    (lambda: Limit("10/s", margin=None), "margin", "seconds"),  # type: ignore[arg-type]
    (lambda: Limit("10/s", name="two words"), "name", "letters"),
    (lambda: Limit("10/s", name=5), "name", "letters"),  # type: ignore[arg-type]
    (lambda: Limit("10/s", name="breaker"), "name", "Choose another"),
    # options that there are not
    (lambda: Limit("10/s", brust=5), "brust", "Did you mean burst?"),  # type: ignore[call-arg]
    (lambda: Limit("10/s", weight=5), "weight", "Known: burst"),  # type: ignore[call-arg]
    (lambda: Limit("10/s", BURST=5), "BURST", "Did you mean burst?"),  # type: ignore[call-arg]
    (lambda: Limit("100/s", 20), "burst", "like burst=20"),  # type: ignore[misc]
    (lambda: Limit(), "rate", "needs it"),  # type: ignore[call-arg]
    (lambda: Limit("1/s", rate="1/s"), "rate", "twice"),  # type: ignore[misc]
    (lambda: Window(5), "per_seconds", "needs it"),  # type: ignore[call-arg]
    (lambda: Window(5, 60), "per_seconds", "per_seconds=60"),  # type: ignore[misc,call-arg]
    (lambda: Window(5, seconds=60), "seconds", "mean per_seconds"),  # type: ignore[call-arg]
    (lambda: Window(5, per_seconds=0), "per_seconds", "0.001 s to 30 days"),
    (lambda: Window(5, per_seconds="60"), "per_seconds", "seconds"),  # type: ignore[arg-type]
    (lambda: Window(5, per_seconds=math.nan), "per_seconds", "span"),
    (lambda: Window(5, per_seconds=timedelta(days=31)), "per_seconds", "30 days"),
    (lambda: Window(0, per_seconds=1), "most", "integer"),
    (lambda: Window(1.5, per_seconds=1), "most", "integer"),  # type: ignore[arg-type]
    (lambda: Quota(5, each="week"), "each", '"day" or "month"'),  # type: ignore[arg-type]
    (lambda: Quota(5, zone="Mars/Olympus"), "zone", "America/Los_Angeles"),
    (lambda: Quota(5, zone=5), "zone", "America/Los_Angeles"),  # type: ignore[arg-type]
    (lambda: Quota(5, timezone="UTC"), "timezone", "zone"),  # type: ignore[call-arg]
    (lambda: Quota("5"), "most", "integer"),  # type: ignore[arg-type]
    (lambda: Concurrency(0), "most", "integer"),
    (lambda: Concurrency(None), "most", "integer"),  # type: ignore[arg-type]
    (lambda: Concurrency(5, cost=2), "cost", "no such option"),  # type: ignore[call-arg]
    (lambda: Upstream(""), "upstream", "letters"),
    (lambda: Upstream(5), "upstream", "letters"),  # type: ignore[arg-type]
    (lambda: Upstream(Limit("1/s")), "upstream", "letters"),  # type: ignore[arg-type]
    (lambda: Upstream(), "name", "needs it"),  # type: ignore[call-arg]
    # would end the hash tag of its keys
    (lambda: Upstream("a}b"), "upstream", "letters"),
    (lambda: Upstream("api", "10/s"), "limits", "Write Limit"),  # type: ignore[arg-type]
    (lambda: Upstream("api", [Limit("1/s")]), "limits", "not a Limit"),  # type: ignore[arg-type]
    (lambda: Upstream("api", limits=[Limit("1/s")]), "limits", "by position"),  # type: ignore[call-arg]
    (lambda: Upstream("api", Limit("1/s"), Limit("2/s")), "limits", "give each a name="),
    (lambda: Upstream("api", maxwait=5), "maxwait", "mean max_wait"),  # type: ignore[call-arg]
    (lambda: Upstream("api", max_wait=0), "max_wait", "30 days"),
    (lambda: Upstream("api", max_wait=None), "max_wait", "30 days"),  # type: ignore[arg-type]
    (lambda: Upstream("api", max_wait="1h"), "max_wait", "timedelta"),  # type: ignore[arg-type]
    (lambda: Upstream("api", max_wait=True), "max_wait", "30 days"),
    (lambda: Upstream("api", max_wait=math.inf), "max_wait", "30 days"),
    (lambda: Upstream("api", max_wait=math.nan), "max_wait", "30 days"),
    (lambda: Upstream("api", max_wait=timedelta(days=31)), "max_wait", "30 days"),
    (lambda: Upstream("api", breaker=True), "breaker", "Write Breaker()"),  # type: ignore[arg-type]
    (lambda: Upstream("api", breaker=Breaker), "breaker", "Write Breaker()"),  # type: ignore[arg-type]
    (lambda: Upstream("api", adaptive=0.5), "adaptive", "Write Adaptive()"),  # type: ignore[arg-type]
    (lambda: Upstream("api", store_down="wait"), "store_down", "closed"),  # type: ignore[arg-type]
    (lambda: Upstream("api", fair_by="a b"), "fair_by", "Name one"),
    (lambda: Upstream("api", weights={"a": 2}), "weights", "Add fair_by"),
    (lambda: Upstream("api", fair_by="a", weights={"a": 0}), "weights", "1 to 1000"),
    (lambda: Upstream("api", fair_by="a", weights=[3]), "weights", "Write {"),  # type: ignore[arg-type]
    (lambda: Upstream("api", reserve=0.1), "urgent", "Give both"),
    (lambda: Upstream("api", urgent=[9]), "reserve", "Give both"),
    (lambda: Upstream("api", reserve=1, urgent=[9]), "reserve", "0 to 0.9"),
    (lambda: Upstream("api", reserve=0.1, urgent=9), "urgent", "range(7, 10)"),  # type: ignore[arg-type]
    (lambda: Upstream("api", max_waiting=0), "max_waiting", "out of range"),
    (lambda: Upstream("api", max_waiting=2.5), "max_waiting", "out of range"),  # type: ignore[arg-type]
    (lambda: Upstream("api", parking="disk"), "parking", "broker"),  # type: ignore[arg-type]
    (lambda: Breaker(21), "failures", "Give 1 to 20"),
    (lambda: Breaker(of=0), "of", "Give 1 to 1000"),
    (lambda: Breaker(open_for=0), "open_for", "0.1 s to 3600 s"),
    (lambda: Breaker(open_for="30s"), "open_for", "timedelta"),  # type: ignore[arg-type]
    (lambda: Breaker(ramp=0), "ramp", "Give 1 to 1024"),
    (lambda: Breaker(10, 20), "of", "like of=20"),  # type: ignore[misc]
    (lambda: Breaker(failure=3), "failure", "mean failures"),  # type: ignore[call-arg]
    (lambda: Adaptive(0), "floor", "between 0 and 1"),
    (lambda: Adaptive(cut=1), "cut", "between 0 and 1"),
    (lambda: Adaptive(recovery=0), "recovery", "1 s to 86400 s"),
    (lambda: Adaptive(recover=60), "recover", "mean recovery"),  # type: ignore[call-arg]
    (lambda: Retry(), "on", "needs it"),  # type: ignore[call-arg]
    (lambda: Retry(on=KeyError, attempt=3), "attempt", "mean attempts"),  # type: ignore[call-arg]
    (lambda: Retry(on=[]), "on", "names no exception"),
    (lambda: Retry(on=["KeyError"]), "on", "is not an exception type"),  # type: ignore[list-item]
    (lambda: Retry(on=KeyError, within="1h"), "within", "timedelta"),  # type: ignore[arg-type]
    (lambda: Governor(), "app", "needs it"),  # type: ignore[call-arg]
    (lambda: Governor(Celery(set_as_current=False), cache=1), "cache", "Known"),  # type: ignore[call-arg]
]


@pytest.mark.parametrize(("make", "field", "said"), WRONG_PARTS)
def test_a_wrong_part_is_refused(make: Callable[[], Any], field: str, said: str) -> None:
    """A limit, upstream or policy that cannot work says so where it is written."""
    with pytest.raises(DeclarationError) as caught:
        make()
    assert caught.value.field == field
    assert caught.value.remedy
    assert said in str(caught.value)


# how something is written, and what it is, where it has only one meaning
ONE_MEANING: list[tuple[Callable[[], Any], Any]] = [
    (lambda: Upstream("api", max_wait=timedelta(hours=1)).max_wait, 3600 * SECOND),
    (lambda: Upstream("api", max_wait=60).max_wait, 60 * SECOND),
    (lambda: Limit("1/s", margin=timedelta(milliseconds=10)).margin, 10_000),
    (lambda: Window(5, per_seconds=timedelta(minutes=1)).span, 60 * SECOND),
    (lambda: Window(5, per_seconds=timedelta(minutes=1)).name, "5 in any 60 s"),
    (lambda: Breaker(open_for=timedelta(minutes=1)).policy.open_for, 60 * SECOND),
    (lambda: Adaptive(recovery=timedelta(minutes=1)).policy, Adaptive(recovery=60).policy),
    (lambda: Retry(on=[KeyError, OSError]).on, (KeyError, OSError)),
    (lambda: Retry(on={KeyError}).on, (KeyError,)),
    (lambda: Retry(KeyError, 3).attempts, 3),
    (lambda: str(Limit("  600 / Min ").rate), "600/min"),
    (lambda: span("x", 1.5, 0, 2), 1_500_000),
]


@pytest.mark.parametrize(("make", "expected"), ONE_MEANING)
def test_what_has_one_meaning_is_accepted(make: Callable[[], Any], expected: Any) -> None:
    """Spans may be timedeltas everywhere, and exceptions any collection."""
    assert make() == expected


def test_any_class_can_check_its_options() -> None:
    """The check knows positions, names, defaults and subclasses."""

    @checked
    class Part:
        def __init__(self, first: int, *, last: int = 0) -> None:
            self.numbers = first, last

    class Special(Part): ...

    assert Special(1, last=2).numbers == (1, 2)
    with pytest.raises(DeclarationError, match="last: Special is given 5 by position"):
        Special(1, 5)  # type: ignore[misc]
    with pytest.raises(DeclarationError, match="3 is one argument too many"):
        Part(1, 3, last=2)  # type: ignore[misc]


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
    (charge, {"upstream": api, "rate_limit": None}),
    # options for which Celery's class has no attribute
    (charge, {"upstream": api, "expires": 5, "time_limit": 9, "shadow": "s"}),
    (
        charge,
        {"upstream": api, "idempotent": True, "autoretry_for": (OSError,), "retry_backoff": 2},
    ),
    # a plain task's own attributes
    (charge, {"limit": 5, "retries": 3, "owner": "billing"}),
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
    # it does not accept these values
    (lambda account, amount: account + amount, "failed with TypeError"),
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


# the cost function of a task (account, amount), what a call ("acct", 3) costs
COSTS_BY_NAME: list[tuple[Callable[..., int], int]] = [
    # some of the arguments, in any order
    (lambda amount: amount, 3),
    (lambda amount, account: amount + len(account), 7),
    (lambda: 2, 2),
    # with a default for what the task does not have
    (lambda amount, factor=1: amount * factor, 3),
    # all of them by name, or as the task is called
    (lambda **arguments: len(arguments), 2),
    (lambda *args, **kwargs: len(args) + len(kwargs), 2),
    (lambda account, /, amount: amount, 3),
]


@pytest.mark.parametrize(("cost", "expected"), COSTS_BY_NAME)
@pytest.mark.parametrize("kwargs", [{}, {"amount": 3}])
def test_a_cost_function_gets_the_arguments_it_names(
    cost: Callable[..., int], expected: int, kwargs: dict[str, int]
) -> None:
    """A cost function need not ask for arguments that it does not use."""
    declared = Upstream("u", Limit("10/s", burst=9, cost=cost))
    declare(charge, upstream=declared)
    plan = CallPlan.of("billing.charge", declared, (), inspect.signature(charge))
    assert plan.costs(("acct",) if kwargs else ("acct", 3), kwargs) == (expected,)


@pytest.mark.parametrize("cost", [lambda prompt: 1, lambda account, *, tokens: 1])
def test_a_cost_function_that_asks_for_more_is_refused(cost: Callable[..., int]) -> None:
    """Said when the task is declared, not at each call."""
    declared = Upstream("u", Limit("10/s", burst=9, cost=cost))
    with pytest.raises(DeclarationError, match="has: account, amount") as caught:
        declare(charge, upstream=declared)
    assert caught.value.field == "cost"
    declare(anything, upstream=declared)


# the limits of an upstream without a max_wait, the seconds that its tasks may wait
DEFAULT_WAITS = [
    # an hour
    ([], 3_600),
    ([Limit("10/s", burst=100)], 3_600),
    # until the whole burst has been earned
    ([Limit("10/day", burst=10)], 86_400),
    ([Limit("1/s"), Limit("1/3h")], 10_800),
    # a whole span, in which calls are spaced evenly at first
    ([Window(10, per_seconds=86_400)], 86_400),
    # the most there is
    ([Limit("1/day", burst=60)], 30 * 86_400),
]


@pytest.mark.parametrize(("limits", "expected"), DEFAULT_WAITS)
def test_the_default_of_max_wait_follows_the_slowest_limit(limits: Any, expected: int) -> None:
    """The first tasks of a slow limit do not die before their first slot."""
    assert Upstream("u", *limits).max_wait == expected * SECOND
    assert Upstream("u", *limits, max_wait=5).max_wait == 5 * SECOND
