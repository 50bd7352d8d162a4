"""The check of what a task type declares, when Celery creates the task."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from celery import Task

from governor.errors import DeclarationError, did_you_mean
from governor.policy.limits import Rule
from governor.policy.plan import CallPlan
from governor.policy.retry import Retry
from governor.policy.upstream import UpstreamDeclaration

_OURS = ("upstream", "limits", "idempotent", "retry")

_CELERYS = frozenset({
    "app", "name", "run", "bind", "base",
    # taken by apply_async where a task has them
    "queue", "routing_key", "exchange", "exchange_type", "delivery_mode", "compression", "expires",
    "immediate", "mandatory", "time_limit", "soft_time_limit", "priority", "serializer", "shadow",
    "headers", "reply_to", "countdown", "eta", "link", "link_error", "add_to_parent",
    # taken by Celery's own retries
    "autoretry_for", "dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max",
    "retry_jitter",
    # arguments of the decorator
    "shared", "lazy", "filter", "pydantic", "pydantic_strict", "pydantic_context",
    "pydantic_dump_kwargs",
})  # fmt: skip
"""Options of tasks for which Celery's class has no attribute."""


def check_ungoverned(task: Any) -> None:
    """Refuse options of governed tasks on one that names no upstream, also misspelt ones: the task
    would run with no limit.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    for name, value, _ in _unknown(task):
        if _is_misspelt(name, value):
            raise _no_such_option(task, name, _OURS)
    for field in ("limits", "idempotent", "retry_policy"):
        if getattr(task, field):
            raise DeclarationError(
                field.removesuffix("_policy"),
                f"task {task.name} declares it but no upstream",
                "Add upstream=…",
            )


def check_governed(task: Any) -> None:
    """Refuse a declaration that cannot keep its promises.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if not isinstance(task.upstream, UpstreamDeclaration):
        raise DeclarationError(
            "upstream", f"{task.upstream!r} is not an Upstream", 'Write Upstream("stripe", …)'
        )
    if not isinstance(task.idempotent, bool):
        raise DeclarationError(
            "idempotent", f"{task.idempotent!r} is not True or False", "Write idempotent=True"
        )
    _check_names(task)
    _check_body(task)
    CallPlan.of(str(task.name), task.upstream, task.limits, inspect.signature(task.run))
    _check_retries(task)
    _check_delivery(task)


def _check_names(task: Any) -> None:
    """Refuse options that neither Celery nor the governor nor a base class knows."""
    for name, value, decorated in _unknown(task):
        if _is_misspelt(name, value):
            raise _no_such_option(task, name, _OURS)
        if decorated:
            celerys = (each for each in dir(Task) if not each.startswith("_"))
            raise _no_such_option(task, name, {*_OURS, *_CELERYS, *celerys})


def _unknown(task: Any) -> Iterator[tuple[str, Any, bool]]:
    """The attributes that the task's classes add to what they derive from, each with its value, and
    whether it is an option of the decorator. Methods declare nothing."""
    mro = type(task).__mro__
    for index, kind in enumerate(mro):
        if not hasattr(mro[index + 1], "retry_policy"):
            return
        decorated = vars(kind).get("_decorated", False)
        base = (*mro[index + 1 :], getattr(vars(kind).get("app"), "Task", object))
        for name, value in vars(kind).items():
            if (
                name.startswith("_")
                or name in _CELERYS
                or any(hasattr(each, name) for each in base)
            ):
                continue
            if not (inspect.isroutine(value) or inspect.isdatadescriptor(value)):
                yield name, value, decorated


def _is_misspelt(name: str, value: Any) -> bool:
    """Tell whether an option of the governor's is meant: by its value, or by its name where other
    tasks are not likely to have one like it."""
    values = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(each, UpstreamDeclaration | Rule | Retry) for each in values):
        return True
    return bool(get_close_matches(name.lower(), ("upstream", "idempotent"), n=1, cutoff=0.75))


def _no_such_option(task: Any, name: str, known: Iterable[str]) -> DeclarationError:
    hint = did_you_mean(name, known)
    if not hint.startswith("Did"):
        hint = "An attribute of your own belongs on a base class"
    return DeclarationError(name, f"task {task.name} has no such option", hint)


def _check_body(task: Any) -> None:
    """Refuse a body that Celery would call without running it."""
    run = task.run
    if inspect.iscoroutinefunction(run) or inspect.isasyncgenfunction(run):
        raise DeclarationError(
            "run",
            f"task {task.name} is an async function, which a worker calls but never awaits",
            "Write def, and in it asyncio.run(…)",
        )
    if inspect.isgeneratorfunction(run):
        raise DeclarationError(
            "run",
            f"task {task.name} has a yield: a worker would call it and run none of it",
            "Return a list, or start a task for each item",
        )


def _check_retries(task: Any) -> None:
    by_celery = getattr(task, "autoretry_for", None)
    if not task.idempotent and (task.retry_policy or by_celery):
        raise DeclarationError(
            "retry" if task.retry_policy else "autoretry_for",
            f"task {task.name} is not idempotent: a retry could make its call twice",
            "Declare idempotent=True if calling twice does no harm, or remove the policy",
        )
    if task.retry_policy and by_celery:
        raise DeclarationError(
            "autoretry_for",
            f"task {task.name} has a retry= too: a failure would be answered by both",
            "Keep one of them; Retry(on=…) names the same exceptions",
        )


def _check_delivery(task: Any) -> None:
    """Refuse Celery's options that would lose a task, run it again after its dead letter was
    written, or limit it a second time."""
    options = {
        name: value
        for cls in reversed(type(task).__mro__)
        if hasattr(cls, "retry_policy")
        for name, value in vars(cls).items()
    }
    if options.get("acks_late") is False:
        raise DeclarationError(
            "acks_late",
            f"task {task.name} would be acknowledged before it runs, and lost with its worker",
            "Remove acks_late=False: governed tasks are acknowledged late",
        )
    for name, bad in (("reject_on_worker_lost", True), ("acks_on_failure_or_timeout", False),
                      ("acks_on_timeout", False), ("acks_on_failure", False)):  # fmt: skip
        if options.get(name) is bad:
            raise DeclarationError(
                name,
                f"task {task.name} would be delivered again after its dead letter was written",
                f"Remove {name}={bad}: the governor decides what runs again",
            )
    if options.get("rate_limit") is not None:
        raise DeclarationError(
            "rate_limit",
            f"task {task.name} has an upstream: each worker would limit it a second time",
            f'Remove it, or declare it for the fleet: limits=[Limit("{options["rate_limit"]}")]',
        )
