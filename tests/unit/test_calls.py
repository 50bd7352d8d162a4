"""Calls inside a task and outside a worker: ``Upstream.call``."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery._state import _set_current_app, _task_stack

from governor import (
    DeclarationError,
    GovernedTask,
    Governor,
    Limit,
    NotAdmitted,
    Throttled,
    Upstream,
)
from governor.clock import SECOND
from governor.errors import ConfigurationError, StoreUnavailable
from governor.policy.limits import Concurrency, Quota, Rule, Window
from governor.policy.settlement import ClaimAction, Settlement
from governor.policy.upstream import Adaptive, Breaker
from governor.ports import Change
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.body_results import NotNow


class Store(MemoryStore):
    """Keeps what it was told, and may be away."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.wall)
        self.settlements: list[Settlement] = []
        self.adjusted = 0
        self.admitted = 0
        self.away = False

    def _answers(self) -> None:
        if self.away:
            raise StoreUnavailable

    def admit(self, ask: Any) -> Any:
        self._answers()
        self.admitted += 1
        return super().admit(ask)

    def settle(self, settlement: Settlement) -> Any:
        self._answers()
        self.settlements.append(settlement)
        return super().settle(settlement)

    def adjust(self, upstream: str, adjustments: Any) -> None:
        self._answers()
        self.adjusted += 1
        super().adjust(upstream, adjustments)

    def in_force(self, upstream: str) -> Any:
        self._answers()
        return super().in_force(upstream)


class World:
    """An app with a governor on a clock that stands still, and an upstream known for long."""

    def __init__(self, *limits: Rule, **options: Any) -> None:
        self.clock = FakeClock()
        self.app = Celery("app", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://unused"
        self.store = Store(self.clock)
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        self.api = Upstream("api", *limits, **options)
        self.store.settle(Settlement("api"))
        self.clock.advance(86_400 * SECOND)
        self.store.settlements.clear()

    def call(self, **options: Any) -> Any:
        return self.api.call(app=self.app, **options)


@pytest.fixture(autouse=True)
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    made: list[World] = []
    init = World.__init__

    def remembered(self: World, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(World, "__init__", remembered)
    yield made
    for world in made:
        world.app.close()


def response(status: int, **headers: str) -> Any:
    return SimpleNamespace(
        status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


class HTTPStatusError(Exception):
    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


# ---------------------------------------------------------------------- admission


def test_a_call_waits_for_its_slot() -> None:
    """Within its bound a call blocks until its slot, and no longer."""
    world = World(Limit("10/s", margin=0))
    start = world.clock.wall()
    moments = []
    for _ in range(3):
        with world.call(wait=0.1):
            moments.append(world.clock.wall() - start)
    assert moments == [0, 100_000, 200_000]


def test_a_call_beyond_its_bound_is_not_made() -> None:
    """By default a call waits for nothing; the error says when, where and why, and is charged
    nothing."""
    world = World(Limit("10/s", margin=0, name="slow"))
    with world.call():
        pass
    for _ in range(2):
        with pytest.raises(NotAdmitted) as caught:
            with world.call(wait=0.05):
                raise AssertionError
        assert caught.value.retry_after == 0.1
        assert (caught.value.upstream, caught.value.limit) == ("api", "slow")
    assert world.clock.slept == []


def test_not_admitted_is_a_throttled_that_survives_pickling() -> None:
    """Whoever waits for Throttled waits for it too, on the other side of a process as well."""
    error = pickle.loads(pickle.dumps(NotAdmitted(retry_after=2, upstream="api", limit="1/s")))
    assert type(error) is NotAdmitted
    assert isinstance(error, Throttled)
    assert (error.retry_after, error.upstream, error.limit) == (2, "api", "1/s")


def test_the_buckets_are_the_tasks() -> None:
    """A call takes from the buckets from which a task with the same arguments takes."""
    world = World(Limit("10/s", per="account", margin=0))

    @world.app.task(shared=False, base=GovernedTask, upstream=world.api)
    def task(account: str) -> int:
        return world.clock.wall()

    start = world.clock.wall()
    with world.call(account="a"):
        assert task("b") == start
        assert task("a") == start + 100_000


def test_a_per_argument_has_to_be_named() -> None:
    """The error names the argument that is missing and what to write."""
    world = World(Limit("10/s", per="account"))
    with pytest.raises(DeclarationError) as caught:
        with world.call():
            pass
    assert caught.value.field == "account"
    assert caught.value.remedy == "Add account=… to the call"


@pytest.mark.parametrize("wait", [-1, True, "1", float("nan"), float("inf")])
def test_a_wait_is_seconds(wait: Any) -> None:
    """What is no number of seconds is refused by name."""
    with pytest.raises(DeclarationError, match="wait"):
        with World().call(wait=wait):
            pass


def test_the_app_is_found() -> None:
    """Without ``app=`` the running task's is taken, else the current one of several."""
    world, other = World(Limit("10/s")), World()

    @world.app.task(shared=False)
    def task() -> str:
        with world.api.call():
            return "made"

    assert task() == "made"
    bare = Celery("bare", set_as_current=True)
    with pytest.raises(ConfigurationError, match=r"Several apps have governors .*app="):
        with world.api.call():
            pass
    with pytest.raises(ConfigurationError, match="'bare' has no governor"):
        with world.api.call(app=bare):
            pass
    world.app.set_current()
    with world.api.call(wait=1):
        pass
    assert world.store.admitted == 3  # the second asks again at its slot
    bare.close()
    other.app.close()
    _set_current_app(None)


@pytest.mark.parametrize("current", [False, True])
def test_a_thread_finds_the_only_governor(
    monkeypatch: pytest.MonkeyPatch, *, current: bool
) -> None:
    """Celery's current app is one thread's; another thread finds the governor all the same, unless
    there are several."""
    world = World(Limit("1/s"))
    open_apps = {world.app, Celery("helper", set_as_current=False)}
    monkeypatch.setattr("governor.calls._get_active_apps", lambda: open_apps)
    if current:
        world.app.set_current()

    def call() -> str:
        try:
            with world.api.call(wait=60):
                return "made"
        except ConfigurationError as exc:
            return str(exc)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(call).result() == "made"
        other = World()
        open_apps.add(other.app)
        assert "app=" in threads.submit(call).result()
        other.app.close()
        open_apps.remove(other.app)
        assert threads.submit(call).result() == "made"
    world.app.close()
    _set_current_app(None)


def test_changed_limits_are_followed() -> None:
    """A call is charged by the numbers in force."""
    world = World(Limit("10/s", margin=0))
    world.store.change(Change("api", "set", "s", '{"rate": "1/s"}', "me", "test"))
    with world.call():
        pass
    with pytest.raises(NotAdmitted) as caught:
        with world.call():
            pass
    assert caught.value.retry_after == 1


# a policy, whether calls are made while the store is away
STORE_DOWN = [("closed", False), ("open", True), ("local", True)]


@pytest.mark.parametrize(("policy", "made"), STORE_DOWN)
def test_without_the_store(policy: Any, made: bool) -> None:
    """While the store is away a call follows the upstream's policy."""
    world = World(Limit("10/s"), store_down=policy)
    world.store.away = True
    if made:
        # A share of a limit that is new here starts without its burst.
        with world.call(wait=0.1):
            pass
    else:
        with pytest.raises(StoreUnavailable):
            with world.call(wait=0.1):
                pass


# ---------------------------------------------------------------------- leases


def test_a_lease_is_held_and_given_back() -> None:
    """While one call runs another finds no lease; afterwards it does."""
    world = World(Concurrency(1))
    with world.call():
        with pytest.raises(NotAdmitted, match="1 s"):
            with world.call():
                pass
    with world.call():
        pass


def test_a_call_waits_for_a_place() -> None:
    """Within its bound a call looks again until a lease is free; beyond it, it is not made."""
    world = World(Concurrency(1))
    first = world.call()
    first.__enter__()
    sleep = world.clock.sleep

    def first_ends(micros: int) -> None:
        sleep(micros)
        if len(world.clock.slept) == 3:
            first.__exit__(None, None, None)

    world.clock.sleep = first_ends  # type: ignore[method-assign]
    with world.call(wait=1):
        assert world.clock.slept == [SECOND // 20] * 3
        with pytest.raises(NotAdmitted):
            with world.call(wait=1):
                pass
        assert sum(world.clock.slept[3:]) == SECOND


def test_a_place_of_a_long_call_is_renewed() -> None:
    """A call longer than the lease keeps it by renewal; one that is over is not renewed."""
    world = World(Concurrency(1))
    lease = world.governor.settings.claim_lease
    with world.call():
        for _ in range(6):
            world.clock.advance(lease // 2)
            world.governor.lease_renewal.renew(world.clock.monotonic())
        with pytest.raises(NotAdmitted):
            with world.call():
                pass
    world.store.settlements.clear()
    world.clock.advance(lease)
    world.governor.lease_renewal.renew(world.clock.monotonic())
    assert world.store.settlements == []


def test_a_renewal_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """While the store is away a renewal stays due."""
    world = World(Concurrency(1))
    with world.call():
        world.clock.advance(world.governor.settings.claim_lease // 2)
        world.store.away = True
        world.governor.lease_renewal.renew(world.clock.monotonic())
        assert "not renewed" in caplog.text
        world.store.away = False
        world.governor.lease_renewal.renew(world.clock.monotonic())
        assert world.store.settlements[-1].action is ClaimAction.RENEW


def test_a_forked_process_renews_its_own_places_alone() -> None:
    """What the parent holds is the parent's to renew; the child's thread is its own."""
    world = World(Concurrency(2))
    lease_renewal = world.governor.lease_renewal
    with world.call():
        child = os.fork()
        if child == 0:
            with world.call():
                world.clock.advance(world.governor.settings.claim_lease // 2)
                lease_renewal.renew(world.clock.monotonic())
                alive = lease_renewal._thread is not None and lease_renewal._thread.is_alive()
                os._exit(10 * alive + len(world.store.settlements))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


# ---------------------------------------------------------------------- the end


@pytest.mark.parametrize("options", [{}, {"breaker": Breaker()}, {"adaptive": Adaptive()}])
def test_a_good_call_settles_nothing(options: Any) -> None:
    """Without leases a call that succeeds costs no second round trip."""
    world = World(Limit("10/s"), **options)
    with world.call() as call:
        call.observe(response(200))
    assert world.store.settlements == []


def end(world: World, what: Any) -> None:
    """One call that ends with an exception, or with a response that nobody raised."""
    ends = pytest.raises(type(what)) if isinstance(what, BaseException) else nullcontext()
    with ends, world.call(wait=100) as call:
        if isinstance(what, BaseException):
            raise what
        call.observe(what)


# how a call ends, the pause in seconds
PAUSES: list[tuple[Any, float]] = [
    # a refusal that became an exception
    (HTTPStatusError(response(429, Retry_After="3")), 3),
    # a refusal that did not
    (response(429, Retry_After="3"), 3),
    # without a time: the first back-off
    (response(429), 1),
    # 503 with a time: it did not happen
    (response(503, Retry_After="2"), 2),
    # 503 without one: it may have
    (response(503), 0),
    # the user's own word
    (Throttled(retry_after=5), 5),
    # the answer to a wrong call
    (HTTPStatusError(response(404)), 0),
    # our own limits, of another upstream: this one need not be paused
    (NotAdmitted(retry_after=7, upstream="other"), 0),
    # an error of our own
    (KeyError("x"), 0),
]


@pytest.mark.parametrize(("what", "pause"), PAUSES)
def test_a_refusal_pauses_the_upstream(what: Any, pause: float) -> None:
    """What the upstream refuses pauses it for the fleet; nothing else does."""
    world = World()
    end(world, what)
    assert sum(each.pause for each in world.store.settlements) == pause * SECOND
    if pause:
        with pytest.raises(NotAdmitted) as caught:
            with world.call():
                pass
        assert (caught.value.limit, caught.value.retry_after) == ("pause", pause)


# how calls end, whether the breaker opens
FAILURES: list[tuple[Any, bool]] = [
    (response(500), True),
    (HTTPStatusError(response(502)), True),
    (ConnectionError(), True),
    (response(404), False),
    (KeyError("x"), False),
    (KeyboardInterrupt(), False),
]


@pytest.mark.parametrize(("what", "opens"), FAILURES)
def test_failed_calls_open_the_breaker(what: Any, opens: bool) -> None:
    """A call that the upstream failed counts for its breaker; one that we failed does not."""
    world = World(breaker=Breaker(2, of=2, open_for=10))
    for _ in range(2):
        end(world, what)
    if opens:
        with pytest.raises(NotAdmitted) as caught:
            with world.call():
                pass
        assert caught.value.limit == "breaker"
        world.clock.advance(10 * SECOND)
    with world.call():
        if opens:
            # The probe is in the air: all others wait for what it says.
            with pytest.raises(NotAdmitted):
                with world.call():
                    pass
    with world.call():
        pass


def test_the_end_of_a_call_survives_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """The call was made: that the store does not hear of its end is logged and no more."""
    world = World(Concurrency(1), Limit("1/s", burst=10))
    with world.call() as call:
        world.store.away = True
        call.settle(cost=3)
        call.observe(response(200, X_RateLimit_Limit="10", X_RateLimit_Remaining="0"))
    assert "was not recorded" in caplog.text


# ---------------------------------------------------------------------- cost


def length(text: str = "", **_: Any) -> int:
    return len(text)


TOKENS = Window(100, per_seconds=60, cost=length, name="tokens")


def used(world: World, *limits: Rule) -> list[int]:
    """Cost units used of windows and quotas, now."""
    charges = [limit.charge_on(limit.key, 1) for limit in limits]
    meters = world.store.look("api", charges).state.meters
    return [
        meter.used if hasattr(meter := meters[c.bucket], "used") else len(meter.times)  # type: ignore[union-attr]
        for c in charges
    ]


def test_a_cost_function_gets_the_arguments() -> None:
    """A call costs what the limit's function answers."""
    world = World(TOKENS)
    with world.call(text="12345"):
        assert used(world, TOKENS) == [5]


def test_a_cost_can_be_given() -> None:
    """Given at the call, it takes the place of the function; limits that count calls count one."""
    calls = Window(50, per_seconds=60)
    world = World(TOKENS.with_numbers({}), calls, Concurrency(5))
    with world.call(cost=7):
        assert used(world, TOKENS, calls) == [7, 1]
    with pytest.raises(DeclarationError, match="101 is no cost of limit tokens"):
        with world.call(cost=101):
            pass


def test_without_a_cost_function_plain_limits_are_measured() -> None:
    """A given cost goes to the limits that count a call as one, not to one that declares more."""
    plain, heavy = Window(50, per_seconds=60), Window(90, per_seconds=61, cost=5)
    world = World(plain, heavy)
    with world.call(cost=7):
        assert used(world, plain, heavy) == [7, 5]
    world = World(heavy)
    with pytest.raises(DeclarationError, match="no limit of upstream 'api' counts"):
        with world.call(cost=7):
            pass


def test_settling_corrects_the_cost() -> None:
    """What a call turned out to cost is charged or given back, in every kind of limit; of several
    times the last counts."""
    window, quota = Window(100, per_seconds=60), Quota(100)
    world = World(window, quota)
    with world.call(cost=10) as call:
        call.settle(cost=25)
        assert used(world, window, quota) == [25, 25]
        call.settle(cost=4)
        assert used(world, window, quota) == [4, 4]
        call.settle(cost=4)
        assert world.store.adjusted == 2
        for bad in (-1, True, 1.5):
            with pytest.raises(DeclarationError, match="is not a cost"):
                call.settle(cost=bad)  # type: ignore[arg-type]


def test_settling_a_bucket_moves_the_next_slot() -> None:
    """A call that cost more makes the next one wait longer."""
    world = World(Limit("10/s", burst=5, margin=0))
    with world.call() as call:
        call.settle(cost=8)
    with pytest.raises(NotAdmitted) as caught:
        with world.call():
            pass
    assert caught.value.retry_after == pytest.approx(0.4)


# ---------------------------------------------------------------------- within a governed task


OWN = Upstream("own", Limit("1000/s", burst=100), TOKENS)


def run(
    world: World, body: Any, *, idempotent: bool = False, header: Any = None, own: Upstream = OWN,
    leaves_reserve: bool = False,
) -> Any:  # fmt: skip
    """Run a body as a worker's pool would."""
    options: dict[str, Any] = {"shared": False, "base": GovernedTask, "name": "task"}
    task = world.app.task(bind=True, upstream=own, idempotent=idempotent, **options)(body)
    now = world.clock.monotonic()
    admitted = {"until": now, "began": world.clock.wall(), "throttles": 0}
    admitted["leaves_reserve"] = leaves_reserve
    task.push_request(
        called_directly=False, is_eager=False, retries=0, governor_run=admitted, governor=header,
        args=(), kwargs={"text": "12345"},
    )  # fmt: skip
    _task_stack.push(task)
    try:
        return task.run()
    finally:
        _task_stack.pop()
        task.pop_request()


def slow_world() -> World:
    return World(Limit("1/s", margin=0))


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_task_waits_whose_call_is_not_admitted(idempotent: bool) -> None:
    """The task is started again after the wait, and its upstream is not paused: no call of it
    had begun."""
    world = slow_world()
    with world.call():
        pass

    def body(self: Any) -> None:
        with world.api.call():
            raise AssertionError

    with pytest.raises(NotNow) as caught:
        run(world, body, idempotent=idempotent)
    assert (caught.value.pause, caught.value.wait) == (None, SECOND)


@pytest.mark.parametrize(("idempotent", "ends"), [(True, NotNow), (False, NotAdmitted)])
def test_a_task_that_has_called_is_started_again_only_if_idempotent(
    idempotent: bool, ends: type[BaseException]
) -> None:
    """After its first call a task that is not idempotent fails: again would call twice."""
    world = slow_world()

    def body(self: Any) -> None:
        for _ in range(2):
            with world.api.call():
                pass

    with pytest.raises(ends):
        run(world, body, idempotent=idempotent)


def test_calls_of_an_earlier_execution_do_not_count() -> None:
    """What is tracked is one execution's."""
    world = slow_world()

    def body(self: Any) -> None:
        with world.api.call():
            pass

    run(world, body)
    with pytest.raises(NotNow):
        run(world, body)


def test_a_called_task_counts_as_a_call() -> None:
    """A governed task called like a function inside the body is a call that was made."""
    world = slow_world()

    @world.app.task(shared=False, base=GovernedTask, upstream=Upstream("other", Limit("9/s")))
    def other() -> None: ...

    with world.call():
        pass

    def body(self: Any) -> None:
        other()
        with world.api.call():
            raise AssertionError

    with pytest.raises(NotAdmitted):
        run(world, body)


REFUSED = response(429, Retry_After="3")


@pytest.mark.parametrize("raised", ["within", "after"])
def test_a_refused_call_inside_pauses_its_own_upstream_alone(raised: str) -> None:
    """The upstream that refused is paused; the task's own is not, and the task waits: the call
    was not made."""
    world = slow_world()

    def body(self: Any) -> None:
        with world.api.call() as call:
            if raised == "within":
                raise HTTPStatusError(REFUSED)
            call.observe(REFUSED)
        raise HTTPStatusError(REFUSED)

    with pytest.raises(NotNow) as caught:
        run(world, body)
    assert (caught.value.pause, caught.value.wait) == (None, 3 * SECOND)
    (settled,) = world.store.settlements
    assert (settled.upstream, settled.pause) == ("api", 3 * SECOND)


def test_a_refusal_of_the_tasks_own_call_pauses_its_upstream() -> None:
    """Raised by the body itself, Throttled is the task's upstream's word, as ever."""
    world = slow_world()

    def body(self: Any) -> None:
        raise Throttled(retry_after=2)

    with pytest.raises(NotNow) as caught:
        run(world, body)
    assert (caught.value.pause, caught.value.wait) == (2 * SECOND, None)


def test_a_task_waits_whose_call_finds_the_store_away() -> None:
    """A store that does not answer is no reason to die."""
    world = slow_world()

    def body(self: Any) -> None:
        world.store.away = True
        with world.api.call():
            raise AssertionError

    with pytest.raises(NotNow) as caught:
        run(world, body)
    assert caught.value.wait == SECOND


def test_not_now_survives_pickling() -> None:
    """It crosses from the pool's process to the worker's."""
    again = pickle.loads(pickle.dumps(NotNow(wait=5)))
    assert (again.pause, again.wait) == (None, 5)


# what the message's header names, what was charged
HEADERS: list[tuple[Any, int]] = [
    # the producer named the buckets
    ({"v": 1, "upstream": "own", "limits": {"s": 1, "tokens": 9}}, 9),
    # it did not: the arguments say what the worker charged
    (None, 5),
]


@pytest.mark.parametrize(("header", "charged"), HEADERS)
def test_a_task_settles_its_own_cost(header: Any, charged: int) -> None:
    """``self.settle`` corrects the charge of the execution; of several times the last counts."""
    world = World()
    sent: list[int] = []
    adjust = world.store.adjust

    def kept(upstream: str, adjustments: Any) -> None:
        assert upstream == "own"
        (each,) = adjustments
        assert (each.charge.bucket, each.charge.cost) == ("tokens", 1)
        sent.append(each.more)
        adjust(upstream, adjustments)

    world.store.adjust = kept  # type: ignore[method-assign]

    def body(self: Any, text: str = "") -> None:
        self.settle(cost=20)
        self.settle(cost=2)

    run(world, body, header=header)
    assert sent == [20 - charged, -18]


# whether the task leaves the reserve, the buckets that are corrected
RESERVED = [(True, ["t", "less.t"]), (False, ["t"])]


@pytest.mark.parametrize(("leaves_reserve", "buckets"), RESERVED)
def test_what_leaves_the_reserve_is_corrected_too(leaves_reserve: bool, buckets: list[str]) -> None:
    """A task that was charged to what the reserve leaves has that charge corrected like the limit's
    own; an urgent one was not charged to it."""
    world = World()
    estimated = Limit("1000/s", burst=100, cost=length, name="t")
    own = Upstream("own", Limit("1000/s", burst=100), estimated, reserve=0.1, urgent=(9,))
    sent: list[list[tuple[str, int]]] = []
    world.store.adjust = lambda _, wanted: sent.append(  # type: ignore[method-assign]
        [(each.charge.bucket, each.more) for each in wanted]
    )

    def body(self: Any, text: str = "") -> None:
        self.settle(cost=20)
        self.settle(cost=2)

    run(world, body, own=own, leaves_reserve=leaves_reserve)
    assert sent == [[(bucket, more) for bucket in buckets] for more in (15, -18)]


def test_an_ungoverned_task_has_nothing_to_settle() -> None:
    """The error says what is missing."""
    world = World()

    @world.app.task(shared=False, base=GovernedTask, bind=True)
    def task(self: Any) -> None:
        self.settle(cost=2)

    with pytest.raises(DeclarationError, match="upstream"):
        task()
