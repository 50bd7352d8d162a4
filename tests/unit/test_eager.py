"""Eager and direct calls are decided inline; published messages are stamped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tenacity
from celery import Celery, signals

from governor import DeclarationError, GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from governor.clock import SECOND
from governor.policy.settlement import Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock


class World:
    """An app with a governor on a clock that stands still."""

    def __init__(self, **conf: Any) -> None:
        self.clock = FakeClock()
        self.app = Celery(
            "app", broker="memory://", backend="cache+memory://", set_as_current=False
        )
        self.app.conf.update(governor_redis_url="redis://unused", **conf)
        self.governor = Governor(self.app, clock=self.clock, store=MemoryStore(self.clock.wall))
        self.api = Upstream("api", Limit("10/s", burst=2, margin=0))
        self.calls: list[tuple[Any, ...]] = []
        self.governor.store.settle(Settlement("api"))
        self.clock.advance(60 * SECOND)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(task_always_eager=True)
    yield made
    made.app.close()


def test_eager_calls_wait_inline(world: World) -> None:
    """Eager calls over the limit block until their slots."""

    @world.app.task(shared=False, base=GovernedTask, upstream=world.api)
    def call() -> int:
        return world.clock.wall()

    start = world.clock.wall()
    moments = [call.delay().get() - start for _ in range(4)]
    assert moments == [0, 0, 100_000, 200_000]


def test_direct_calls_wait_inline(world: World) -> None:
    """So does a call of the task as a function."""

    @world.app.task(shared=False, base=GovernedTask, upstream=world.api)
    def call() -> int:
        return world.clock.wall()

    start = world.clock.wall()
    assert [call() - start for _ in range(3)] == [0, 0, 100_000]


def test_a_direct_call_beyond_its_patience_is_told_when(world: World) -> None:
    """A caller that would block too long gets Throttled with the wait, and takes no slot."""
    slow = Upstream("slow", Limit("1/h"))

    @world.app.task(shared=False, base=GovernedTask, upstream=slow)
    def call() -> None:
        raise AssertionError

    for _ in range(2):
        with pytest.raises(Throttled) as caught:
            call()
        assert caught.value.retry_after == 3600
        assert caught.value.upstream == "slow"


def test_an_eager_failure_is_retried_by_the_policy(world: World) -> None:
    """Eager mode runs the next attempts inside the first, as Celery's own retries do."""
    attempts: list[int] = []

    @world.app.task(
        shared=False,
        bind=True, base=GovernedTask, upstream=world.api, idempotent=True,
        retry=Retry(on=ConnectionError, attempts=3, wait=tenacity.wait_fixed(1)),
    )  # fmt: skip
    def call(self: Any) -> str:
        attempts.append(self.request.retries)
        if len(attempts) < 3:
            raise ConnectionError
        return "done"

    assert call.delay().get() == "done"
    assert attempts == [0, 1, 2]


def test_an_eager_chain_goes_on(world: World) -> None:
    """A chain's next task runs after a governed one."""

    @world.app.task(shared=False, base=GovernedTask, upstream=world.api)
    def add(x: int, y: int) -> int:
        return x + y

    assert (add.s(1, 2) | add.s(3) | add.s(4)).apply().get() == 10


def test_a_task_that_is_not_idempotent_cannot_retry_itself(world: World) -> None:
    """``self.retry()`` of such a task fails with its exception instead of calling twice."""

    @world.app.task(shared=False, bind=True, base=GovernedTask, upstream=world.api)
    def call(self: Any) -> None:
        world.calls.append(())
        raise self.retry(exc=ConnectionError("reset"))

    with pytest.raises(ConnectionError, match="reset"):
        call.delay().get()
    assert len(world.calls) == 1


def test_without_a_governor_a_governed_task_says_so() -> None:
    """Forgetting Governor(app) is an error with the remedy, not an unlimited task."""
    app = Celery("bare", broker="memory://", set_as_current=False)

    @app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("1/s")))
    def call() -> None:
        raise AssertionError

    with pytest.raises(Exception, match=r"Write Governor\(app\)"):
        call()
    app.close()


def published(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The headers of one published message."""
    seen: list[dict[str, Any]] = []

    def look(headers: dict[str, Any] | None = None, **_: Any) -> None:
        seen.append(dict(headers or {}))

    signals.after_task_publish.connect(look, weak=False)
    try:
        task.apply_async(args, kwargs)
    finally:
        signals.after_task_publish.disconnect(look)
    (headers,) = seen
    return headers


def test_a_published_message_is_stamped() -> None:
    """It names the upstream, its buckets with their costs and the idempotency key, and shows no
    secret in its representations."""
    world = World()
    api = Upstream("stripe", Limit("10/s"), Limit("5/s", per="account", burst=4, cost=3, name="x"))

    @world.app.task(shared=False, base=GovernedTask, upstream=api)
    def charge(account: str, password: str) -> None: ...

    headers = published(charge, "acct_1", "hunter2")
    governor = headers["governor"]
    assert governor["v"] == 1
    assert governor["upstream"] == "stripe"
    assert list(governor["limits"].values()) == [1, 3]
    assert governor["idem"] == headers["id"]
    assert "hunter2" not in repr(headers)
    assert "acct_1" in headers["argsrepr"]
    world.app.close()


def test_every_publish_is_a_message_of_its_own() -> None:
    """A signature that is sent twice is two messages under one task id; they share the task's
    idempotency key, and each has an id of its own."""
    world = World()

    @world.app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("10/s")))
    def call(number: int) -> None: ...

    frozen = call.s(1)
    frozen.freeze()
    first, second = (published(frozen) for _ in range(2))
    assert first["id"] == second["id"]
    assert first["governor"]["mid"] != second["governor"]["mid"]
    assert first["governor"]["idem"] == second["governor"]["idem"] == first["id"]
    world.app.close()


def test_headers_that_are_passed_on_do_not_pass_the_identity_on() -> None:
    """A body that gives its own headers to the tasks it sends does not give them its idempotency
    key, its beginning or its dead letter: those belong to attempts of the same task."""
    world = World()

    @world.app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("10/s")))
    def call(number: int) -> None: ...

    parent = {"v": 1, "mid": "a" * 12, "idem": "first", "of": "parent", "began": 7,
              "replay_of": "letter"}  # fmt: skip
    passed_on = call.s(1).set(headers={"governor": parent})
    child = published(passed_on)
    assert child["governor"]["idem"] == child["id"]
    assert not {"of", "began", "replay_of"} & child["governor"].keys()
    again = published(passed_on.clone().set(task_id="parent", retries=1))["governor"]
    assert again.pop("mid") != parent.pop("mid")
    del again["upstream"], again["limits"]
    assert again == parent
    world.app.close()


def test_a_replacement_has_a_key_of_its_own() -> None:
    """A task that replaces another under the same id has another idempotency key, the same in each
    of its own attempts."""
    world = World()

    @world.app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("10/s")))
    def call(number: int) -> None: ...

    first = published(call.s(1).set(task_id="t"))["governor"]
    replaced = call.s(1).set(task_id="t", replaced_task_nesting=1)
    second = published(replaced)["governor"]
    retried = published(replaced.clone().set(headers={"governor": second}, retries=1))["governor"]
    assert (first["idem"], second["idem"], retried["idem"]) == ("t", "t:1", "t:1")
    replaced = replaced.clone().set(headers={"governor": second}, replaced_task_nesting=2)
    assert published(replaced)["governor"]["idem"] == "t:2"
    world.app.close()


def test_an_ungoverned_message_is_left_alone() -> None:
    """A task without an upstream is published as Celery publishes it."""
    world = World()

    @world.app.task(shared=False)
    def plain(password: str) -> None: ...

    headers = published(plain, "x")
    assert "governor" not in headers
    assert headers["argsrepr"] == "('x',)"
    world.app.close()


def test_another_apps_message_is_left_alone() -> None:
    """Celery tells every governor of the process of every message; each stamps those of its own
    app, declared or routed, and no other's of the same name."""
    api, other_api = Upstream("api", Limit("10/s")), Upstream("other", Limit("10/s"))
    routes = {"governor_routes": {"vendor.*": "api"}, "governor_upstreams": [api]}
    world, other = World(**routes), World()
    bare = Celery("bare", broker="memory://", set_as_current=False)

    def call(password: str) -> None: ...

    options = {"shared": False, "name": "call"}
    ours = world.app.task(base=GovernedTask, upstream=api, **options)(call)
    theirs = other.app.task(base=GovernedTask, upstream=other_api, **options)(call)
    nobodys = bare.task(**options)(call)
    assert published(ours, "x")["governor"]["upstream"] == "api"
    assert published(theirs, "x")["governor"]["upstream"] == "other"
    headers = published(nobodys, "x")
    assert "governor" not in headers
    assert headers["argsrepr"] == "('x',)"
    assert published(world.app.signature("vendor.sync"))["governor"]["upstream"] == "api"
    assert "governor" not in published(bare.signature("vendor.sync"))
    for app in (world.app, other.app, bare):
        app.close()


def test_a_producer_that_cannot_stamp_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Without the settings it needs, a producer sends its messages as they are and names the
    setting once, in one line."""
    app = Celery("app", broker="memory://", set_as_current=False)
    Governor(app)

    @app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("10/s")))
    def call() -> None: ...

    for _ in range(3):
        assert "governor" not in published(call)
    (record,) = [record for record in caplog.records if record.name == "governor"]
    assert "without a governor header: governor_redis_url: not set" in record.getMessage()
    assert record.exc_info is None
    app.close()


def test_a_cost_that_fails_reaches_the_producer() -> None:
    """A cost function that cannot take the arguments fails in ``apply_async``."""
    world = World()
    api = Upstream("api", Limit("10/s", burst=9, cost=lambda weight: weight))

    @world.app.task(shared=False, base=GovernedTask, upstream=api)
    def call(weight: int) -> None: ...

    with pytest.raises(DeclarationError, match="cost"):
        call.delay(10)
    world.app.close()


def test_an_app_has_one_governor(world: World) -> None:
    """A second governor on the same app is refused."""
    with pytest.raises(Exception, match="already has a governor"):
        Governor(world.app)
