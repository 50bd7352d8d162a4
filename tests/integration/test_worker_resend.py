"""Real workers: what is tried again, waits or is replayed comes back as the message it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.ports import Change, Reason
from governor.stores.redis.store import RedisStore
from tests.integration.fleet import PATIENT, Fleet, pause_upstream, wait_until

pytestmark = pytest.mark.redis

MODULE = "tests.integration.resend_app"
TIMEOUT = 40
BROKERS = ["redis_url", pytest.param("rabbitmq_url", marks=pytest.mark.rabbitmq)]
ROUTE = {"queue": "feed", "routing_key": "feed.import"}


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(broker_url: str | None = None, **env: str) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        fleet = Fleet(tmp_path, broker_url or redis_url, redis_url, database, module=MODULE, **env)
        feeds = Exchange("feeds", type="topic")
        fleet.app.conf.task_queues = [
            Queue(name, feeds, routing_key=f"{name}.#") for name in ("feed", "other")
        ]
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def producer() -> Iterator[Callable[[Fleet, str], Any]]:
    """Makes a task of a producer with a governor. It is closed after the results of the test."""
    with ExitStack() as stack:

        def make(fleet: Fleet, name: str) -> Any:
            app = Celery("producer", broker=fleet.broker_url, backend=fleet.backend_url)
            stack.callback(app.close)
            app.conf.update(governor_redis_url=fleet.limiter_url, governor_timeout=PATIENT)
            app.conf.task_queues = fleet.app.conf.task_queues
            stack.callback(Governor(app).store.close)
            upstream = Upstream("sent", Limit("50/s"))

            @app.task(base=GovernedTask, upstream=upstream, name=f"{MODULE}.{name}", shared=False)
            def sent(account: str = "", failures: int = 0) -> str:
                raise AssertionError

            return sent

        yield make


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("task", ["flaky", "retries", "autoretried", "parked", "waits"])
def test_it_comes_back_as_what_it_was(
    make_fleet: Callable[..., Fleet], task: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """A task that is tried again by the policy or by Celery, or that is parked or deferred, keeps
    its exchange, routing key, headers and priority in every attempt."""
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker()
    upstream = {"parked": "slow", "waits": "deferred"}.get(task)
    if upstream is not None:
        pause_upstream(fleet.limiter_url, upstream, 2)
    result = fleet.send(
        task, "acme", 2, **ROUTE, headers={"tenant": "acme", "trace": "t-1"}, priority=3
    )
    assert result.get(timeout=TIMEOUT) == "acme"
    lines = fleet.ledger(task)
    assert [line["retries"] for line in lines] == ([0] if upstream else [0, 1, 2])
    if upstream is not None:
        assert lines[0]["deferrals"] >= 1
    for line in lines:
        assert line["route"] == ["feeds", "feed.import"]
        assert (line["headers"]["tenant"], line["headers"]["trace"]) == ("acme", "t-1")
        assert line["priority"] == 3
    assert not fleet.dead()


@pytest.mark.parametrize("task", ["flaky", "retries", "autoretried", "routed", "parked", "waits"])
def test_the_callers_masks_stay(
    make_fleet: Callable[..., Fleet], task: str, producer: Callable[[Fleet, str], Any]
) -> None:
    """The caller's mask is shown instead of the arguments in every attempt, whichever process sends
    it; secrets in the mask are taken out."""
    fleet = make_fleet()
    fleet.worker()
    upstream = {"parked": "slow", "waits": "deferred"}.get(task)
    if upstream is not None:
        pause_upstream(fleet.limiter_url, upstream, 2)
    result = producer(fleet, task).apply_async(
        ("AB-private",), {"failures": 2}, **ROUTE,
        argsrepr="(<account>,)", kwargsrepr="{password='hunter2'}",
    )  # fmt: skip
    assert result.get(timeout=TIMEOUT) == "AB-private"
    for line in fleet.ledger(task):
        assert line["shown"] == ["(<account>,)", "{password='[redacted]'}"]


def test_a_dead_letter_shows_the_callers_mask(
    make_fleet: Callable[..., Fleet], producer: Callable[[Fleet, str], Any], tmp_path: Path
) -> None:
    """A mask stands in the dead letter too, also of a producer that knows no governor."""
    fleet = make_fleet()
    fleet.worker()
    path = str(tmp_path / "AB-private")
    producer(fleet, "needs").apply_async((path,), **ROUTE, argsrepr="(<path>,)")
    fleet.send("needs", path, **ROUTE, argsrepr="(<path>,)")
    rows = wait_until(fleet.dead, lambda rows: len(rows) == 2, TIMEOUT)
    assert [row.args_redacted for row in rows] == ["(<path>,) {}"] * 2


@pytest.mark.parametrize("broker", BROKERS)
def test_a_replay_runs(
    make_fleet: Callable[..., Fleet], broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A task that ``dead replay`` sends again runs where the original did, with its headers."""
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker()
    needed = tmp_path / "needed"
    fleet.send("needs", str(needed), **ROUTE, headers={"tenant": "acme"})
    (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
    assert row.reason == Reason.NOT_RETRYABLE
    needed.touch()
    done = fleet.command("dead", "replay", row.id, "--yes", "--reason", "it is there now")
    assert done.returncode == 0, done.stderr
    assert "1 replayed" in done.stdout
    lines: list[Any] = wait_until(lambda: fleet.ledger("needs"), lambda seen: len(seen) == 2)
    assert [line["route"] for line in lines] == [["feeds", "feed.import"]] * 2
    assert [line["headers"]["tenant"] for line in lines] == ["acme", "acme"]


def parked(fleet: Fleet) -> int:
    """How many tasks wait in the lot of ``slow``."""
    store = RedisStore(fleet.limiter_url, timeout=PATIENT * SECOND)
    try:
        return store.lots.waiting("slow")[0]
    finally:
        store.close()


def unpause(fleet: Fleet) -> None:
    store = RedisStore(fleet.limiter_url, timeout=PATIENT * SECOND)
    store.change(Change("slow", "resume", "", "", "test", "go on"))
    store.change(Change("slow", "set", "1/s", "100/s", "test", "go faster"))
    store.close()


def park(fleet: Fleet, worker: Any, **route: Any) -> list[Any]:
    """Let eight tasks be parked out of the queue ``feed``, which is added to a running worker."""
    control = fleet.app.control
    control.add_consumer(
        "feed", exchange="feeds", exchange_type="topic", routing_key="feed.#",
        destination=[worker.name], reply=True, timeout=PATIENT,
    )  # fmt: skip
    pause_upstream(fleet.limiter_url, "slow", 3600)
    results = [fleet.send("parked", str(n), **(route or ROUTE)) for n in range(8)]
    wait_until(lambda: parked(fleet), lambda waiting: waiting == 8)
    return results


def cancel(fleet: Fleet, worker: Any) -> None:
    fleet.app.control.cancel_consumer(
        "feed", destination=[worker.name], reply=True, timeout=PATIENT
    )


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("queues", [["feed"], ["feed", "other"], ["other"]])
def test_whoever_consumes_a_queue_releases_what_was_parked_out_of_it(
    make_fleet: Callable[..., Fleet], broker: str, queues: list[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Tasks parked out of a queue that was added to a running worker are released by a worker with
    other queues that consumes it too, or to which it is added later."""
    fleet = make_fleet(request.getfixturevalue(broker))
    first = fleet.worker(queues=["other"])
    results = park(fleet, first)
    cancel(fleet, first)
    second = fleet.worker(queues=queues)
    unpause(fleet)
    if "feed" not in queues:
        # No worker consumes the queue.
        second.wait_for_log("out of the queue feed, which this worker does not consume")
        assert not fleet.ledger("parked")
        fleet.app.control.add_consumer(
            "feed", destination=[second.name], reply=True, timeout=PATIENT
        )
    assert [result.get(timeout=TIMEOUT) for result in results] == [str(n) for n in range(8)]
    wait_until(lambda: parked(fleet), lambda waiting: waiting == 0)
    assert "wait for a worker that consumes it" in first.log()
    assert not fleet.dead()


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("restarted", [True, False])
def test_what_nobody_consumes_is_a_dead_letter_at_max_wait(
    make_fleet: Callable[..., Fleet], broker: str, restarted: bool, request: pytest.FixtureRequest
) -> None:
    """Parked tasks of a queue that no worker consumes any more are rows when their time is over,
    which say what a worker would have to consume; so does the log."""
    fleet = make_fleet(request.getfixturevalue(broker), MAX_WAIT="8")
    worker = fleet.worker(queues=["other"])
    results = park(fleet, worker)
    if restarted:
        assert worker.terminate() == 0
        worker = fleet.worker(queues=["other"])
    else:
        cancel(fleet, worker)
    rows = wait_until(fleet.dead, lambda rows: len(rows) == 8, TIMEOUT)
    assert {row.task_id for row in rows} == {result.id for result in results}
    for row in rows:
        assert row.reason == Reason.DEFERRAL_BUDGET_EXHAUSTED
        assert "consumes the queue 'feed'" in (row.exc_message or "")
        assert row.queue == "feed"
    assert "waited beyond max_wait in the queue feed" in worker.log()
    assert not fleet.ledger("parked")
    assert parked(fleet) == 0


def test_what_waits_says_what_must_be_consumed(make_fleet: Callable[..., Fleet]) -> None:
    """While nothing of a lot is released, ``governor waiting`` names the queues it came from."""
    fleet = make_fleet()
    worker = fleet.worker(queues=["other"])
    park(fleet, worker)
    cancel(fleet, worker)
    unpause(fleet)
    said = fleet.command("waiting", "list", "slow")
    assert "nothing was released lately" in said.stdout
    assert "consumes feed" in said.stdout
