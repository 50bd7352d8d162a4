"""Failures as the worker's main process knows them, in every pool."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated as BilliardTerminated
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Retry as CeleryRetry
from kombu.exceptions import OperationalError

from governor import GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from governor.admission import nested_calls
from governor.messages.header import NAME, Attempt, Header, is_whole
from governor.policy.outcome import Outcome
from governor.ports import Reason
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.body_results import RUN_KEY, Again, NotNow, failure_info
from governor.worker.completion import Ending, judge
from governor.worker.failures import (
    Failure,
    attempt_of,
    exception_of,
    failure_of,
    with_attempt,
)
from governor.worker.task import govern
from tests import kinds_of_failure as kinds
from tests.kinds_of_failure import KINDS, Kind, NeedsKeyword

API = Upstream("api", Limit("1/s"))


def in_this_process(result: Any) -> Any:
    """threads, gevent and solo hand the result over as it is."""
    return result


def from_another_process(result: Any) -> Any:
    """prefork's results are pickled."""
    return pickle.loads(pickle.dumps(result))


POOLS = [in_this_process, from_another_process]


class World:
    """An app whose tasks are run as a pool runs them, and judged as the dispatcher does."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.app = Celery(
            "app", broker="memory://", backend="cache+memory://", set_as_current=False
        )
        self.app.conf.governor_redis_url = "redis://unused"
        self.governor = Governor(self.app, clock=self.clock, store=MemoryStore(self.clock.wall))

    def task(self, body: Callable[..., Any], **options: Any) -> Any:
        options = {"base": GovernedTask, "upstream": API, "name": "shop.pay", **options}
        return self.app.task(shared=False, **options)(body)

    def run(
        self, task: Any, pool: Callable[[Any], Any], *, retries: int = 0,
        headers: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """The end of one execution, as the worker's main process hears of it."""
        admitted = {
            "until": self.clock.monotonic() + 1, "began": self.clock.wall(), "throttles": 0,
            "leaves_reserve": False,
        }  # fmt: skip
        request = {
            RUN_KEY: admitted, "id": "1", "retries": retries, "is_eager": False,
            "delivery_info": {}, **(headers or {}),
        }  # fmt: skip
        task.__trace__ = build_tracer(task.name, task, app=self.app)
        try:
            ended = task.__trace__("1", (), {}, request)
        except Exception:
            return pool(ExceptionInfo())
        return pool((1, ended.retval, ended.runtime))[1] if ended.info else None

    def verdict(self, task: Any, exc_info: Any, *, retries: int = 0) -> Ending:
        request = SimpleNamespace(request_dict={"retries": retries}, _already_cancelled=False)
        governance = self.governor.governance(task.name)
        assert governance is not None
        return judge(request, exc_info, governance)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.app.close()


def calling(raises: Callable[[], None]) -> Callable[[], None]:
    def body() -> None:
        raises()

    return body


@pytest.mark.parametrize("options", [{}, {"autoretry_for": (ConnectionError,)}])
def test_celerys_own_retry_publishes_nothing_of_the_workers(
    world: World, options: dict[str, Any]
) -> None:
    """A task governed by a route is retried by Celery's method, whose message has the caller's
    headers and no admission, whatever has been found out about the failure."""
    world.app.conf.update(governor_routes={"vendor.*": "api"}, governor_upstreams=[API])
    # The memory transport is one for all apps of the process.
    world.app.conf.task_default_queue = queue = f"retries-{len(options)}"

    def body(self: Any) -> None:
        if not options:
            self.retry(exc=ConnectionError("reset by peer"))
        raise ConnectionError("reset by peer")

    task = world.app.task(shared=False, name="vendor.pay", bind=True, **options)(body)
    govern(task)
    exc_info = world.run(task, in_this_process, headers={"tenant": "x"})
    assert isinstance(exception_of(exc_info), CeleryRetry)
    with world.app.connection_for_read() as connection:
        headers = connection.SimpleQueue(queue).get(timeout=1).headers
    assert headers["tenant"] == "x"
    assert RUN_KEY not in headers


@pytest.mark.parametrize("exc", [ConnectionError("reset"), ConnectionError, "reset", None])
def test_a_retry_may_be_given_what_celery_takes(exc: Any) -> None:
    """``self.retry(exc=…)`` takes an exception, a class of one, or a text; the attempt log has a
    line where there is a class to name."""
    header = with_attempt(SimpleNamespace(id="1"), exc, 7, None)
    named = [attempt.exc_type for attempt in Header.from_message({NAME: header}).attempts]
    assert named == (["ConnectionError"] if exc not in {"reset", None} else [])


def told(exc_info: Any) -> Failure:
    failure = failure_of(exc_info)
    assert failure is not None
    return failure


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("raises", "kind"), KINDS.items())
def test_what_is_known_of_a_failure(
    world: World, raises: Callable[[], None], kind: Kind, pool: Callable[[Any], Any]
) -> None:
    """Classes, status, own frame, retryability and what the breaker hears are those of the
    exception that the body raised, whatever pickling makes of it."""
    task = world.task(calling(raises), idempotent=True, retry=Retry(on=Exception, attempts=1))
    exc_info = world.run(task, pool)
    failure = told(exc_info)
    facts = failure.facts
    assert facts.exc_type == kind.chain[0]
    assert facts.exc_chain == kind.chain
    assert facts.http_status == kind.status
    assert facts.last_frame == (kinds.__name__, kind.frame or raises.__name__)
    assert kind.chain[0].rpartition(".")[2] in (facts.traceback or "")
    assert failure.at == world.clock.wall()
    verdict = world.verdict(task, exc_info)
    assert (verdict.kind, verdict.reason) == (Ending.Kind.DEAD, Reason.RETRIES_EXHAUSTED)
    assert verdict.outcome == Outcome(kind.outcome)
    assert attempt_of(exc_info, 0).exc_type == kind.chain[0]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("raises", KINDS)
def test_the_policy_is_asked_beside_the_body(
    world: World, raises: Callable[[], None], pool: Callable[[Any], Any]
) -> None:
    """An exception that no pickle carries is tried again as its own class says, asked once."""
    asked = []

    def wait(state: Any) -> float:
        asked.append(state.attempt_number)
        return 2.0

    policy = Retry(on=Exception, attempts=3, wait=wait)
    task = world.task(calling(raises), idempotent=True, retry=policy)
    exc_info = world.run(task, pool)
    assert isinstance(exception_of(exc_info), Again)
    verdict = world.verdict(task, exc_info)
    assert (verdict.kind, verdict.wait) == (Ending.Kind.AGAIN, 2_000_000)
    assert asked == [1]


@pytest.mark.parametrize("pool", POOLS)
def test_celery_sees_the_users_own_exception(world: World, pool: Callable[[Any], Any]) -> None:
    """Handlers, the result and the exception handed on are those of Celery without the governor."""
    seen: list[Any] = []

    class Base(GovernedTask):
        abstract = True

        def on_failure(self, exc: Any, task_id: str, *_: Any) -> None:
            seen.append(exc)

    def body() -> None:
        raise ValueError("no such thing", 7)

    task = world.task(body, base=Base)
    exc = exception_of(world.run(task, pool))
    assert isinstance(exc, ValueError)
    assert exc.args == seen[0].args == ("no such thing", 7)
    assert vars(exc) == {}
    result = world.app.AsyncResult("1").result
    assert isinstance(result, ValueError)
    assert result.args == ("no such thing", 7)


def unencodable() -> object:
    return object()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("idempotent", [True, False])
def test_a_result_that_cannot_be_stored(
    world: World, pool: Callable[[Any], Any], idempotent: bool
) -> None:
    """The body succeeded: it is not called again, and the row says what failed."""
    retry = Retry(on=Exception, attempts=3) if idempotent else None
    options = {"retry": retry} if retry else {}
    task = world.task(unencodable, idempotent=idempotent, **options)
    exc_info = world.run(task, pool)
    verdict = world.verdict(task, exc_info)
    assert (verdict.kind, verdict.reason) == (Ending.Kind.DEAD, Reason.NOT_RETRYABLE)
    assert verdict.outcome is Outcome.SUCCESS
    text = str(told(exc_info).facts.exc_message)
    assert text.startswith("the body succeeded; its result could not be stored")


def broken() -> None:
    raise ConnectionError("reset by peer")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("routed", [False, True])
def test_celerys_own_retries_that_are_used_up(
    world: World, pool: Callable[[Any], Any], routed: bool
) -> None:
    """``autoretry_for`` without a retry left is ``retries_exhausted``; with one it is Celery's."""
    options = {"autoretry_for": (ConnectionError,), "max_retries": 2}
    if routed:
        world.app.conf.governor_upstreams = [API]
        world.app.conf.governor_routes = {"shop.pay": "api"}
        task: Any = world.app.task(shared=False, name="shop.pay", **options)(broken)
        govern(task)
    else:
        task = world.task(broken, idempotent=True, **options)
    last = world.run(task, pool, retries=2)
    assert world.verdict(task, last, retries=2).reason is Reason.RETRIES_EXHAUSTED
    assert told(last).facts.last_frame == (__name__, "broken")
    assert world.verdict(task, world.run(task, pool)).kind is Ending.Kind.PASS


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("given", [None, NeedsKeyword("no such thing")])
def test_retries_by_hand_that_are_used_up(
    world: World, pool: Callable[[Any], Any], given: Exception | None
) -> None:
    """``self.retry()`` without a retry left is ``retries_exhausted``, whatever it then raises."""

    def body(self: Any) -> None:
        raise self.retry(exc=given, max_retries=1)

    task = world.task(body, idempotent=True, bind=True)
    last = world.run(task, pool, retries=1)
    assert world.verdict(task, last, retries=1).reason is Reason.RETRIES_EXHAUSTED


def test_celerys_own_retries_write_the_attempt_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``self.retry()`` and ``autoretry_for`` keep the log of a governed task, as our retries do."""
    sent: list[Any] = []
    monkeypatch.setattr(
        "celery.canvas.Signature.apply_async", lambda self, *_, **__: sent.append(self)
    )

    def body() -> None:
        kinds.openai_500()

    task = world.task(
        body, idempotent=True, autoretry_for=(NeedsKeyword,), retry_kwargs={"countdown": 2}
    )
    known = Header(upstream="api", idem="key", attempts=(Attempt(7, "OSError"),)).to_message()
    world.run(task, from_another_process, headers={NAME: known})
    header = Header.from_message(sent[0].options["headers"])
    assert header.idem == "key"
    assert header.attempts == (
        Attempt(7, "OSError"),
        Attempt(world.clock.wall(), f"{kinds.__name__}.NeedsKeyword", 500, 2_000_000),
    )


@pytest.mark.parametrize(
    ("lines", "failed", "whole"),
    [(0, 0, True), (1, 1, True), (1, 2, False), (0, 1, False), (51, 1_000, True), (50, 51, False)],
)
def test_a_log_that_lacks_failures_knows_no_first_one(lines: int, failed: int, whole: bool) -> None:
    """Retries that write no line leave a log whose first line is not the first failure."""
    assert is_whole([Attempt(at, "E") for at in range(lines)], failed) is whole


def test_a_result_backend_that_is_away_changes_no_decision(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision made beside the body holds when Celery cannot store how the body ended."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("the backend is away")

    task = world.task(broken, idempotent=True, retry=Retry(on=ConnectionError, attempts=2))
    monkeypatch.setattr(task.backend, "mark_as_retry", away)
    monkeypatch.setattr(task.backend, "mark_as_failure", away)
    with pytest.warns(RuntimeWarning, match="the backend is away"):
        first = world.run(task, from_another_process)
    assert world.verdict(task, first).kind is Ending.Kind.AGAIN
    with pytest.warns(RuntimeWarning, match="the backend is away"):
        last = world.run(task, from_another_process, retries=1)
    assert world.verdict(task, last).reason is Reason.RETRIES_EXHAUSTED
    assert told(last).facts.exc_type == "ConnectionError"


def test_an_exception_made_into_another_on_its_way_out(world: World) -> None:
    """The row describes what Celery reports; the decision is the body's."""

    class Base(GovernedTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except ConnectionError as error:
                raise NeedsKeyword("wrapped") from error

    task = world.task(broken, base=Base)
    failure = told(world.run(task, from_another_process))
    assert failure.facts.exc_chain == (f"{kinds.__name__}.NeedsKeyword", "ConnectionError")
    assert failure.reason is Reason.NOT_IDEMPOTENT


@pytest.mark.parametrize("pool", POOLS)
def test_a_refusal_wrapped_in_an_own_error_waits(world: World, pool: Callable[[Any], Any]) -> None:
    """A 429 that the body made into an error of its own is "not now" all the same."""

    def body() -> None:
        try:
            raise Throttled(retry_after=3)
        except Throttled as error:
            raise NeedsKeyword("busy") from error

    exc_info = world.run(world.task(body), pool)
    exc = exception_of(exc_info)
    assert isinstance(exc, NotNow)
    assert exc.pause == 3_000_000
    assert failure_of(exc_info) is None


@pytest.mark.parametrize("pool", POOLS)
def test_a_refusal_that_may_not_be_waited_for_pauses_all_the_same(
    world: World, pool: Callable[[Any], Any]
) -> None:
    """A task that is not idempotent and has made calls is not started again; the fleet waits."""

    def body() -> None:
        nested_calls.began()
        raise Throttled(retry_after=3)

    task = world.task(body)
    verdict = world.verdict(task, world.run(task, pool))
    assert (verdict.kind, verdict.reason) == (Ending.Kind.DEAD, Reason.NOT_IDEMPOTENT)
    assert (verdict.outcome, verdict.pause) == (Outcome.THROTTLED, 3_000_000)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_failure_that_celery_tries_again_is_heard_of(
    world: World, pool: Callable[[Any], Any], by_hand: bool
) -> None:
    """``self.retry()`` and ``autoretry_for`` hide no failure from the upstream's breaker."""

    def body(self: Any) -> None:
        try:
            kinds.openai_500()
        except NeedsKeyword as exc:
            if by_hand:
                raise self.retry(exc=exc) from None
            raise

    options = {} if by_hand else {"autoretry_for": (NeedsKeyword,)}
    task = world.task(body, idempotent=True, bind=True, **options)
    verdict = world.verdict(task, world.run(task, pool))
    assert (verdict.kind, verdict.outcome) == (Ending.Kind.PASS, Outcome.FAILED)


@pytest.mark.parametrize("forged", ["x", 7, None, ["failure"]])
def test_a_forged_admission_hides_no_failure(world: World, forged: object) -> None:
    """A message may claim anything; a task of no upstream fails as with Celery alone."""
    task: Any = world.app.task(shared=False, base=GovernedTask, name="shop.plain")(broken)
    task.__trace__ = build_tracer(task.name, task, app=world.app)
    request = {RUN_KEY: forged, "id": "1", "is_eager": False, "delivery_info": {}}
    ended = task.__trace__("1", (), {}, request)
    assert isinstance(exception_of(ended.retval), ConnectionError)
    assert failure_of(ended.retval) is None


class Stray(Exception):
    """Raised where no body ran."""


@pytest.mark.parametrize(
    ("exc", "idempotent", "kind", "reason"),
    [
        (Stray(), True, Ending.Kind.DEAD, Reason.NOT_RETRYABLE),  # arguments that do not unpickle
        (Stray(), False, Ending.Kind.DEAD, Reason.NOT_IDEMPOTENT),
        (BilliardTerminated(), True, Ending.Kind.LEAVE, None),  # by a person: Celery says so
        (kinds.Terminated(), False, Ending.Kind.DEAD, Reason.NOT_IDEMPOTENT),  # the user's
        (kinds.WorkerLostError(), True, Ending.Kind.DEAD, Reason.NOT_RETRYABLE),
    ],
)
def test_an_end_of_which_the_body_said_nothing(
    world: World, exc: Exception, idempotent: bool, kind: Ending.Kind, reason: Reason | None
) -> None:
    """Celery's own exceptions are told by identity; any other is a death, the policy not asked."""
    options = {"retry": Retry(on=Exception)} if idempotent else {}
    task = world.task(broken, idempotent=idempotent, **options)
    verdict = world.verdict(task, failure_info(exc))
    assert (verdict.kind, verdict.reason) == (kind, reason)


def test_the_attempt_log_travels_and_stays_small() -> None:
    """The first attempt and the last fifty go with the message, in a few kilobytes."""
    header = Header(upstream="api")
    for number in range(1_000):
        header = header.failed(Attempt(number, "x" * 500, 503, 7))
        header = Header.from_message({NAME: header.next_attempt().to_message()})
    assert [attempt.at for attempt in header.attempts] == [0, *range(950, 1_000)]
    assert len(json.dumps(header.to_message())) < 8_000
    assert header.attempts[0].http_status == 503
    assert header.attempts[0].wait == 7


@pytest.mark.parametrize("log", [7, [[]], [["x", "E", 0, 0]], [[1, 2, 3, 4]], [[-1, "E", 0, 0]]])
def test_an_attempt_log_that_cannot_be_read(log: object) -> None:
    """Somebody else's header is no log, and no reason to fail."""
    assert Header.from_message({NAME: {"v": 1, "log": log}}).attempts == ()
