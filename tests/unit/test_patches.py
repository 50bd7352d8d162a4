"""Patches that libraries put in Celery's place, at any time and anywhere, are called."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from unittest import mock

import pytest
from celery import Celery, Task, signals

from governor import GovernedTask, Governor, Limit, Upstream
from governor.messages.header import NAME
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

api = Upstream("api", Limit("10/s"))


class TracedCelery(Celery):
    """An app class of the user's own."""

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "trace": "sub"}
        return super().send_task(*args, **kwargs)


def make_app(kind: type[Celery] = Celery) -> Any:
    app = kind("traced", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.governor_redis_url = "redis://unused"
    return app


def govern(app: Any) -> Any:
    """Its task ``pay``, governed."""
    clock = FakeClock()
    Governor(app, clock=clock, store=MemoryStore(clock.wall))

    @app.task(base=GovernedTask, upstream=api, name="pay", shared=False)
    def pay(account: str = "a") -> None: ...

    return pay


def tracing(original: Callable[..., Any], trace: str = "on") -> Callable[..., Any]:
    """As tracing libraries wrap what publishes: of a class or of an instance."""

    @wraps(original)
    def traced(*args: Any, **kwargs: Any) -> Any:
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "trace": trace}
        return original(*args, **kwargs)

    return traced


@pytest.fixture
def published() -> Iterator[list[dict[str, Any]]]:
    """The headers of each message, as they leave."""
    found: list[dict[str, Any]] = []

    def after(headers: dict[str, Any], **_: Any) -> None:
        found.append(headers)

    signals.after_task_publish.connect(after)
    yield found
    signals.after_task_publish.disconnect(after)


def class_before(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(Celery, "send_task", tracing(Celery.send_task))
    return govern(make_app())


def class_after(patch: pytest.MonkeyPatch) -> Any:
    pay = govern(make_app())
    patch.setattr(Celery, "send_task", tracing(Celery.send_task))
    return pay


def instance_before(patch: pytest.MonkeyPatch) -> Any:
    app = make_app()
    patch.setattr(app, "send_task", tracing(app.send_task))
    return govern(app)


def instance_after(patch: pytest.MonkeyPatch) -> Any:
    pay = govern(make_app())
    patch.setattr(pay.app, "send_task", tracing(pay.app.send_task))
    return pay


def task_before(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(Task, "apply_async", tracing(Task.apply_async))
    return govern(make_app())


def task_after(patch: pytest.MonkeyPatch) -> Any:
    pay = govern(make_app())
    patch.setattr(Task, "apply_async", tracing(Task.apply_async))
    return pay


def subclass(_: pytest.MonkeyPatch) -> Any:
    return govern(make_app(TracedCelery))


PATCHES = [
    class_before, class_after, instance_before, instance_after, task_before, task_after, subclass,
]  # fmt: skip


@pytest.mark.parametrize("patched", PATCHES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("send", ["apply_async", "send_task", "signature"])
def test_a_patch_of_what_publishes_is_called(
    patched: Callable[[pytest.MonkeyPatch], Any],
    send: str,
    monkeypatch: pytest.MonkeyPatch,
    published: list[dict[str, Any]],
) -> None:
    """A tracing library sees what is published, once, and the governor stamps it."""
    pay = patched(monkeypatch)
    if send == "apply_async":
        pay.apply_async(("a",))
    elif send == "signature":
        pay.s("a").delay()
    elif patched in {task_before, task_after}:
        return
    else:
        pay.app.send_task("pay", ("a",))
    (headers,) = published
    assert headers["trace"] in {"on", "sub"}
    assert headers[NAME]["upstream"] == "api"


def test_a_handler_of_celerys_signal_is_called(published: list[dict[str, Any]]) -> None:
    """Headers that a handler of before_task_publish adds stay, whoever came first."""
    pay = govern(make_app())

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["trace"] = "on"

    signals.before_task_publish.connect(before)
    try:
        pay.delay("a")
    finally:
        signals.before_task_publish.disconnect(before)
    assert published[0]["trace"] == "on"
    assert published[0][NAME]["upstream"] == "api"


def test_a_patch_that_is_taken_away_is_gone(published: list[dict[str, Any]]) -> None:
    """A test that replaces Celery's method for a while gets the calls, and none afterwards."""
    pay = govern(make_app())
    with mock.patch.object(Celery, "send_task") as replaced:
        pay.app.send_task("pay", ("a",))
    replaced.assert_called_once_with("pay", ("a",))
    with mock.patch.object(pay.app, "send_task") as replaced:
        pay.app.send_task("pay", ("a",))
    replaced.assert_called_once_with("pay", ("a",))
    assert published == []
    pay.app.send_task("pay", ("a",))
    assert published[0][NAME]["upstream"] == "api"


@pytest.mark.parametrize("clone", [copy.copy, lambda app: pickle.loads(pickle.dumps(app))])
def test_a_copy_of_an_app_publishes_for_itself(clone: Callable[[Any], Any]) -> None:
    """Celery copies an app by making it again: the copy has no governor until it is given one."""
    pay = govern(make_app())
    twin = clone(pay.app)
    assert twin is not pay.app
    assert getattr(twin, "governor", None) is None
    assert "send_task" not in vars(twin)
    Governor(twin)
    assert twin.governor.app is twin


def test_an_app_that_does_not_finalize_itself_publishes(published: list[dict[str, Any]]) -> None:
    """Publishing by name asks nothing of an app whose author finalizes it; then its tasks are
    governed."""
    app = Celery("late", broker="memory://", autofinalize=False, set_as_current=False)
    app.conf.governor_redis_url = "redis://unused"
    pay = govern(app)
    app.send_task("pay")
    assert NAME not in published[0]
    app.finalize()
    pay.delay()
    assert NAME in published[1]


class Registry:
    """The least that Celery itself asks of an app's tasks."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        self._tasks = tasks

    def __getitem__(self, name: str) -> Any:
        return self._tasks[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tasks


@pytest.mark.parametrize("name", ["pay", "unknown"])
def test_a_registry_of_the_apps_own_is_used_as_celery_uses_it(
    published: list[dict[str, Any]], name: str
) -> None:
    """An app's tasks are looked up by their name alone."""
    app = make_app()
    govern(app)
    app.finalize()
    app._tasks = Registry(dict(app._tasks))
    app.send_task(name)
    assert (NAME in published[0]) == (name == "pay")


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [("a", {}, "task args must be"), ((), [("account", "a")], "task keyword arguments must be")],
)
def test_arguments_of_no_shape_are_refused_by_celery(args: Any, kwargs: Any, said: str) -> None:
    """A producer's mistake raises what it raises with Celery alone."""
    app = make_app()
    govern(app)
    with pytest.raises(TypeError, match=said):
        app.send_task("pay", args, kwargs)
