"""Subclasses, mixins and apps of the user's own: what they declare and override is used, and their
tasks are governed whatever they forget to call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.app.trace import build_tracer

from governor import DeclarationError, GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from governor.clock import SECOND
from governor.policy.decision import Answer, Ask
from governor.policy.settlement import Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

api = Upstream("api", Limit("5/s"))


class CountingStore(MemoryStore):
    asked = 0

    def admit(self, ask: Ask) -> Answer:
        self.asked += 1
        return super().admit(ask)


class World:
    """An app with a governor, and what the bodies and overrides of its tasks did."""

    def __init__(self, app: Any = None, *, task_cls: Any = Task) -> None:
        self.clock = FakeClock()
        self.app = app or Celery(
            "own", broker="memory://", backend="cache+memory://", task_cls=task_cls
        )
        self.app.conf.update(governor_redis_url="redis://unused", governor_inline_wait=60)
        self.store = CountingStore(self.clock.wall)
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        self.store.settle(Settlement("api"))
        self.clock.advance(3_600 * SECOND)
        self.did: list[str] = []


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.app.close()


def by_function(world: World) -> Any:
    @world.app.task(base=GovernedTask, upstream=api, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def bound(world: World) -> Any:
    @world.app.task(base=GovernedTask, upstream=api, bind=True, shared=False)
    def pay(self: Any, amount: int = 0) -> None:
        assert isinstance(self, GovernedTask)
        world.did.append("run")

    return pay


def shared(world: World) -> Any:
    @shared_task(base=GovernedTask, upstream=api, name=f"shared.{id(world)}")
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    world.app.set_current()
    return pay


def of_the_apps_class(world: World) -> Any:
    class Base(GovernedTask):
        abstract = True
        upstream = api

    world.app.Task = Base

    @world.app.task(shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def of_a_class(world: World) -> Any:
    class Pay(GovernedTask):
        upstream = api

        def run(self, amount: int = 0) -> None:
            world.did.append("run")

    return world.app.register_task(Pay())


def of_a_class_made_by_celery(world: World) -> Any:
    class Pay(GovernedTask):
        name = "pay"
        upstream = api

        def run(self, amount: int = 0) -> None:
            world.did.append("run")

    return world.app.register_task(Pay)


def with_an_init_that_calls_nothing(world: World) -> Any:
    class Base(GovernedTask):
        abstract = True
        upstream = api

        def __init__(self) -> None:
            world.did.append("init")

    @world.app.task(base=Base, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def with_an_init_that_declares(world: World) -> Any:
    class Pay(GovernedTask):
        name = "pay"

        def __init__(self, upstream: Upstream) -> None:
            world.did.append("init")
            self.upstream = upstream

        def run(self, amount: int = 0) -> None:
            world.did.append("run")

    return world.app.register_task(Pay(api))


def with_a_mixin_behind(world: World) -> Any:
    class Mixin:
        def __init__(self) -> None:
            world.did.append("init")
            super().__init__()

    class Base(GovernedTask, Mixin):
        abstract = True
        upstream = api

    @world.app.task(base=Base, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def with_a_mixin_in_front(world: World) -> Any:
    class Mixin:
        def __init__(self) -> None:
            world.did.append("init")

    class Base(Mixin, GovernedTask):
        abstract = True
        upstream = api

    @world.app.task(base=Base, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def subclassed_twice(world: World) -> Any:
    class Base(GovernedTask):
        abstract = True
        upstream = api

        def run(self, amount: int = 0) -> None:
            world.did.append("run")

    class Middle(Base):
        abstract = True

        def __init__(self) -> None:
            world.did.append("init")
            super().__init__()

    class Pay(Middle):
        def run(self, amount: int = 0) -> None:
            super().run(amount)

    return world.app.register_task(Pay())


def with_a_call_of_its_own(world: World) -> Any:
    """As Flask's documentation has it."""

    class Base(GovernedTask):
        abstract = True
        upstream = api

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            world.did.append("init")
            return self.run(*args, **kwargs)

    @world.app.task(base=Base, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def with_a_call_that_calls_celerys(world: World) -> Any:
    class Base(GovernedTask):
        abstract = True
        upstream = api

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            world.did.append("init")
            return super().__call__(*args, **kwargs)

    @world.app.task(base=Base, shared=False)
    def pay(amount: int = 0) -> None:
        world.did.append("run")

    return pay


def with_its_run_patched(world: World) -> Any:
    """As Sentry does it, when the first worker traces the task."""
    pay = by_function(world)
    original = pay.run

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        world.did.append("init")
        return original(*args, **kwargs)

    pay.run = patched
    world.governor.governance(pay.name)
    return pay


def with_celerys_retries(world: World) -> Any:
    class Pay(GovernedTask):
        upstream = api
        idempotent = True
        autoretry_for = (KeyError,)

        def run(self, amount: int = 0) -> None:
            world.did.append("run")

    return world.app.register_task(Pay())


KINDS = [
    by_function, bound, shared, of_the_apps_class, of_a_class, of_a_class_made_by_celery,
    with_an_init_that_calls_nothing, with_an_init_that_declares, with_a_mixin_behind,
    with_a_mixin_in_front, subclassed_twice, with_a_call_of_its_own,
    with_a_call_that_calls_celerys, with_its_run_patched, with_celerys_retries,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("call", ["direct", "eager"])
def test_every_kind_of_task_is_governed(
    kind: Callable[[World], Any], call: str, world: World
) -> None:
    """Ten calls at 5/s take 1.8 s, and each runs once; an own __init__, __call__ or run is
    called."""
    task = kind(world)
    began = world.clock.monotonic()
    for amount in range(10):
        if call == "direct":
            task(amount)
        else:
            task.apply((amount,), throw=True)
    assert world.clock.monotonic() - began == 9 * SECOND // 5
    # The first is let in; each other is told its slot, and asks again there.
    assert world.store.asked == 19
    assert world.did.count("run") == 10
    assert ("init" in world.did) is kind.__name__.startswith(("with_a", "subclassed", "with_its"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_task_reaches_a_worker_governed(
    kind: Callable[[World], Any], world: World
) -> None:
    """Celery's tracer, as a worker builds it, finds the body that asks where its admission is."""
    task = kind(world)
    task = world.app.tasks[task.name]
    tracer = build_tracer(task.name, task, app=world.app)
    request = {"id": "an-id", "is_eager": False, "delivery_info": {}}
    result = tracer("an-id", (1,), {}, request)
    assert "without admission" in str(result.retval if hasattr(result, "retval") else result)
    assert "run" not in world.did


def test_a_refused_task_is_not_handed_out(world: World) -> None:
    """A task that is declared wrongly is refused each time it is asked for, and never runs."""

    @world.app.task(base=GovernedTask, upstream=api, retry=Retry(on=KeyError), shared=False)
    def pay() -> None: ...

    for _ in range(2):
        with pytest.raises(DeclarationError, match="idempotent"):
            pay.delay()


def test_a_policy_of_a_mixin_counts(world: World) -> None:
    """A retry policy that a plain class brings is the task's, and retry stays a method."""

    class Stubborn:
        idempotent = True
        retry = Retry(on=KeyError, attempts=2)

    class Base(Stubborn, GovernedTask):
        abstract = True
        upstream = api

    @world.app.task(base=Base, shared=False)
    def pay() -> None:
        world.did.append("run")
        raise KeyError

    assert callable(pay.retry)
    pay.apply()
    assert world.did == ["run", "run"]


class Recorder(GovernedTask):
    """Overrides what a subclass may override, and passes all of it on."""

    abstract = True
    upstream = Upstream("api", Limit("100/s", burst=50, cost=lambda amount: amount))
    idempotent = True
    did: list[str] = []  # noqa: RUF012 - one for each test

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        self.did.append("apply_async")
        return super().apply_async(*args, **kwargs)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        self.did.append("retry")
        return super().retry(*args, **kwargs)

    def before_start(self, *args: Any, **kwargs: Any) -> None:
        self.did.append("before_start")

    def after_return(self, *args: Any, **kwargs: Any) -> None:
        self.did.append("after_return")

    def on_success(self, *args: Any, **kwargs: Any) -> None:
        self.did.append("on_success")

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        self.did.append("on_failure")

    def on_retry(self, *args: Any, **kwargs: Any) -> None:
        self.did.append("on_retry")

    def shadow_name(self, *args: Any, **kwargs: Any) -> str:
        self.did.append("shadow_name")
        return "shadow"


def test_what_a_subclass_overrides_is_called(world: World) -> None:
    """A cost function or a retry policy takes no override away."""
    Recorder.did = did = []

    @world.app.task(base=Recorder, bind=True, max_retries=1, shared=False)
    def pay(self: Any, amount: int) -> None:
        did.append("run")
        if amount == 2:
            raise KeyError
        if amount == 3:
            raise self.retry(countdown=0)

    pay.delay(1)
    assert did == ["apply_async", "shadow_name"]
    did.clear()
    with pytest.raises(DeclarationError, match="cost"):
        pay.delay(51)
    assert did[0] == "apply_async"
    did.clear()
    pay.apply((1,))
    assert did == ["before_start", "run", "on_success", "after_return"]
    did.clear()
    pay.apply((2,))
    assert did == ["before_start", "run", "on_failure", "after_return"]
    did.clear()
    pay.apply((3,))
    assert did[:4] == ["before_start", "run", "retry", "on_retry"]
    assert did.count("run") == 2


def test_an_own_retry_may_decide_for_itself(world: World) -> None:
    """A subclass's retry that calls nothing of Celery's is what the body calls."""

    class Base(GovernedTask):
        abstract = True
        upstream = api

        def retry(self, *args: Any, **kwargs: Any) -> Any:
            return Throttled("mine")

    @world.app.task(base=Base, bind=True, shared=False)
    def pay(self: Any) -> None:
        raise self.retry()

    with pytest.raises(Throttled, match="mine"):
        pay()


def test_the_apps_own_task_class_adds_its_methods(world: World) -> None:
    """Governed tasks have the methods that the app's class adds to Celery's, as Django's
    delay_on_commit."""

    class OnCommit(Task):
        abstract = True
        commits = 3

        def delay_on_commit(self, *args: Any) -> tuple[str, Any]:
            return self.name, args

        @staticmethod
        def kind() -> str:
            return "kind"

    own = World(task_cls=OnCommit)
    pay = by_function(own)
    assert pay.delay_on_commit(1) == (pay.name, (1,))
    assert (pay.commits, pay.kind()) == (3, "kind")
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        pay.nothing_of_the_kind
    own.app.close()


def test_several_apps_share_a_task_by_name() -> None:
    """A shared task is governed in each app by that app's governor."""
    worlds = [World(), World()]

    @shared_task(base=GovernedTask, upstream=api, name="shared.by.several")
    def pay(amount: int = 0) -> None: ...

    for world, other in (worlds, worlds[::-1]):
        asked = other.store.asked
        world.app.tasks["shared.by.several"](1)
        assert world.store.asked > 0
        assert other.store.asked == asked
    for world in worlds:
        world.app.close()
