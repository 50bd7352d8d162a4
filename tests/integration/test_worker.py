"""Governed tasks in real workers over a real Redis: admission, waiting, retries, deaths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chain, chord, group

from governor.ports import Reason
from tests.integration.fleet import (
    MODULE,
    Fleet,
    assert_within_limit,
    pause_upstream,
    wait_until,
    wait_until_paused,
)

pytestmark = [pytest.mark.redis, pytest.mark.worker]

POOLS = ["prefork", "threads", "gevent", "solo"]
TIMEOUT = 30


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        made.append(Fleet(tmp_path, redis_url, redis_url, database_url, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.mark.parametrize("pool", POOLS)
def test_two_workers_share_one_limit(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """The limit is the fleet's, not each worker's, in every pool; and every task runs once."""
    fleet = make_fleet(RATE="20/s", BURST="2")
    fleet.worker(pool)
    fleet.worker(pool)
    results = [fleet.send("call", number) for number in range(40)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(40))
    calls = fleet.ledger("call")
    assert len(calls) == 40
    assert_within_limit(calls, burst=2, rate=20)


@pytest.mark.parametrize("pool", POOLS)
def test_others_do_not_wait_behind_an_over_limit_task(
    make_fleet: Callable[..., Fleet], pool: str
) -> None:
    """Ungoverned tasks of the same queue run while governed ones wait for minutes."""
    fleet = make_fleet(RATE="1/min")
    fleet.worker(pool)
    for number in range(20):
        fleet.send("call", number)
    results = [fleet.send("ungoverned", number) for number in range(10)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(10))
    assert len(fleet.ledger("call")) <= 1


def test_parked_tasks_run_in_the_order_in_which_they_came(
    make_fleet: Callable[..., Fleet],
) -> None:
    """A task that arrives while others of its lane still want a pool slot gets no slot before them.
    Only those that are late for theirs may be overtaken, by their neighbours."""
    fleet = make_fleet(RATE="100/s", conf={"governor_hold": 0, "worker_prefetch_multiplier": 20})
    # No task gets a pool slot before many want one.
    fleet.send("ungoverned", 0, 1.0)
    results = [fleet.send("call", number) for number in range(200)]
    fleet.worker(concurrency=1)
    for result in results:
        result.get(timeout=TIMEOUT)
    called = [call["number"] for call in fleet.ledger("call")]
    assert sorted(called) == list(range(200))
    assert all(abs(number - at) <= 5 for at, number in enumerate(called))


@pytest.mark.parametrize("pool", POOLS)
def test_a_busy_pool_does_not_gather_slots(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """Tasks that arrive while the pool is busy are admitted when it is free, one by one."""
    fleet = make_fleet(RATE="10/s")
    fleet.worker(pool)
    for number in range(2):
        fleet.send("ungoverned", number, 2.0)
    at_once = 1 if pool == "solo" else 2
    wait_until(lambda: len(fleet.ledger("ungoverned")), lambda begun: begun >= at_once)
    results = [fleet.send("call", number) for number in range(12)]
    for result in results:
        result.get(timeout=TIMEOUT)
    assert_within_limit(fleet.ledger("call"), burst=1, rate=10)


def test_a_task_type_nobody_may_edit_is_governed_by_its_name(
    make_fleet: Callable[..., Fleet],
) -> None:
    """A task without the base class, matched by governor_routes, keeps the same limit."""
    fleet = make_fleet(RATE="10/s", BURST="2")
    fleet.worker()
    results = [fleet.app.send_task("vendor.tasks.sync", (number,)) for number in range(15)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(15))
    lines = [line for line in fleet.ledger() if line["task"] == "vendor.tasks.sync"]
    assert len(lines) == 15
    assert_within_limit(lines, burst=2, rate=10)


@pytest.mark.parametrize(("parking", "counter"), [("store", "parked"), ("broker", "deferred")])
def test_a_deferred_task_is_the_same_task(
    make_fleet: Callable[..., Fleet], parking: str, counter: str
) -> None:
    """A task that was parked or handed back keeps its id, attempt, priority, stamps and expiry."""
    fleet = make_fleet(RATE="1/s", PARKING=parking, conf={"governor_hold": 0})
    # Both are there when the worker comes: the second meets a bucket that has just been filled.
    first = fleet.send("call", 0)
    result = fleet.send("call", 1, priority=3, headers={"mine": "kept"}, expires=600)
    fleet.worker()
    assert first.get(timeout=TIMEOUT) == 0
    assert result.get(timeout=TIMEOUT) == 1
    call = next(call for call in fleet.ledger("call") if call["number"] == 1)
    assert (call["id"], call["retries"]) == (result.id, 0)
    wait_until(lambda: fleet.stats(counter))


@pytest.mark.parametrize(("hold", "parking"), [(0, "store"), (0, "broker"), (10, "store")])
def test_canvas_survives_waiting(
    make_fleet: Callable[..., Fleet], hold: float, parking: str
) -> None:
    """Chord, chain and group give the results of ungoverned tasks when every member waits: parked,
    in the broker, or inside the worker."""
    fleet = make_fleet(RATE="5/s", PARKING=parking, conf={"governor_hold": hold})
    fleet.worker()
    call = fleet.signature
    collect = fleet.app.signature(f"{MODULE}.collect")
    chorded = chord([call("call", n) for n in range(4)], app=fleet.app)(collect)
    grouped = group([call("call", n) for n in range(3)], app=fleet.app).apply_async()
    chained = chain(call("call", 7), call("call"), app=fleet.app).apply_async()
    assert chorded.get(timeout=TIMEOUT) == [0, 1, 2, 3]
    assert grouped.get(timeout=TIMEOUT) == [0, 1, 2]
    assert chained.get(timeout=TIMEOUT) == 7


def test_a_task_that_would_wait_too_long_is_a_dead_letter(
    make_fleet: Callable[..., Fleet],
) -> None:
    """A slot beyond max_wait ends as one row, and the caller learns of it."""
    fleet = make_fleet(RATE="1/day")
    fleet.worker()
    fleet.send("call", 0)
    result = fleet.send("call", 1)
    with pytest.raises(Exception, match="deferral_budget_exhausted"):
        result.get(timeout=TIMEOUT)
    rows = wait_until(fleet.dead)
    assert {row.reason for row in rows} == {Reason.DEFERRAL_BUDGET_EXHAUSTED}


@pytest.mark.parametrize("pool", POOLS)
def test_an_idempotent_task_is_retried(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """A transient failure is tried again under the same id and the same idempotency key."""
    fleet = make_fleet()
    fleet.worker(pool)
    result = fleet.send("flaky", 2)
    assert result.get(timeout=TIMEOUT) == "done"
    calls = fleet.ledger("flaky")
    assert [call["retries"] for call in calls] == [0, 1, 2]
    assert {call["key"] for call in calls} == {result.id}
    assert not fleet.dead()


# what is sent, how often the body runs, the reason in the row
DEATHS = [
    # every attempt failed
    ("flaky", (9,), 3, Reason.RETRIES_EXHAUSTED),
    # an exception the policy does not retry
    ("wrong", (), 1, Reason.NOT_RETRYABLE),
    # not idempotent: no second call
    ("fragile", (), 1, Reason.NOT_IDEMPOTENT),
    # its process was killed; nobody knows whether the call was made
    ("dies", ("sigkill",), 1, Reason.OUTCOME_UNKNOWN),
    # out of memory: Celery alone would end the whole worker
    ("dies", ("memory",), 1, Reason.MEMORY_ERROR),
    # the body exits
    ("dies", ("exit",), 1, Reason.SYSTEM_EXIT),
]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_every_death_is_one_row(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """Each way to die leaves exactly one row with its reason, and the worker lives."""
    fleet = make_fleet()
    worker = fleet.worker(pool)
    deaths = [death for death in DEATHS if pool == "prefork" or death[1] != ("sigkill",)]
    sent = {fleet.send(task, *args).id: (runs, why) for task, args, runs, why in deaths}
    rows = wait_until(fleet.dead, lambda rows: len(rows) >= len(deaths))
    assert fleet.send("ungoverned", 1).get(timeout=TIMEOUT) == 1
    assert worker.running
    assert {row.task_id: row.reason for row in rows} == {i: why for i, (_, why) in sent.items()}
    assert len(fleet.dead()) == len(deaths)
    runs = {i: sum(call["id"] == i for call in fleet.ledger()) for i in sent}
    assert runs == {i: number for i, (number, _) in sent.items()}


def test_a_hard_time_limit_is_one_row(make_fleet: Callable[..., Fleet]) -> None:
    """Celery reports a hard time limit twice; the row is one."""
    fleet = make_fleet()
    fleet.worker()
    result = fleet.send("dies", "hang", time_limit=1)
    with pytest.raises(Exception, match=r"TimeLimitExceeded"):
        result.get(timeout=TIMEOUT)
    rows = wait_until(fleet.dead)
    assert [row.reason for row in rows] == [Reason.HARD_TIME_LIMIT]


def test_an_idempotent_task_survives_its_process(make_fleet: Callable[..., Fleet]) -> None:
    """A pool process killed in the middle of an idempotent call: the call is made again."""
    fleet = make_fleet()
    fleet.worker()
    assert fleet.send("dies_once").get(timeout=TIMEOUT) == "done"
    assert [call["retries"] for call in fleet.ledger("dies_once")] == [0, 1]
    assert not fleet.dead()


@pytest.mark.parametrize("pool", POOLS)
def test_throttled_waits_and_costs_no_retry(
    make_fleet: Callable[..., Fleet], tmp_path: Path, redis_url: str, pool: str
) -> None:
    """After a 429 the whole fleet stays away until Retry-After; the task, idempotent or not, then
    runs as the same attempt."""
    fleet = make_fleet()
    fleet.worker(pool)
    marker = str(tmp_path / "marker")
    result = fleet.send("throttled_once", marker, 3.0)
    wait_until_paused(redis_url, "free")
    other = fleet.send("flaky", 0)
    assert result.get(timeout=TIMEOUT) == "done"
    assert other.get(timeout=TIMEOUT) == "done"
    first, second = fleet.ledger("throttled_once")
    assert second["retries"] == 0
    # The limiter's clock and the workers' are not the same.
    assert second["at"] - first["at"] >= 2.9
    assert fleet.ledger("flaky")[0]["at"] - first["at"] >= 2.9
    assert not fleet.dead()


def test_a_second_delivery_is_not_called_again(
    make_fleet: Callable[..., Fleet], redis_url: str
) -> None:
    """The same non-idempotent message delivered twice makes its call once."""
    # The second delivery asks again when the first one's claim might have run out.
    fleet = make_fleet(RATE="1000/s", BURST="100", conf={"governor_claim_lease": 5})
    fleet.send("call_once", 1, 0.5)
    broker = redis.Redis.from_url(redis_url)
    message = broker.lindex("celery", 0)
    broker.lpush("celery", message)
    broker.close()
    fleet.worker()
    fleet.worker()
    wait_until(lambda: fleet.stats("dropped"), lambda dropped: dropped == 1)
    assert len(fleet.ledger("call_once")) == 1
    assert not fleet.dead()


def test_a_worker_killed_in_the_middle_leaves_outcome_unknown(
    make_fleet: Callable[..., Fleet],
) -> None:
    """SIGKILL to a worker during a non-idempotent call: one call, one row, nothing repeated."""
    conf = {
        "governor_claim_lease": 1,
        "broker_transport_options": {
            "visibility_timeout": 2,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    }
    fleet = make_fleet(conf=conf, RATE="1000/s", BURST="100")
    worker = fleet.worker()
    result = fleet.send("call_once", 1, 60.0)
    wait_until(lambda: fleet.ledger("call_once"))
    worker.kill()
    fleet.worker()
    rows = wait_until(fleet.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(result.id, Reason.OUTCOME_UNKNOWN)]
    assert len(fleet.ledger("call_once")) == 1


def test_a_worker_that_stops_gives_back_the_claims_of_tasks_it_did_not_begin(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """Told to stop between handing a task to its pool and the pool's sending it to a process, a
    worker leaves a task that its successor calls: its outcome is not unknown."""
    fleet = make_fleet(RATE="1000/s", BURST="100", STOP_ONCE=str(tmp_path / "stopped"))
    first = fleet.worker()
    result = fleet.send("call_once", 7)
    assert first.wait() == 0
    assert not fleet.ledger()
    fleet.worker()
    assert result.get(timeout=TIMEOUT) == 7
    assert len(fleet.ledger("call_once")) == 1
    assert not fleet.dead()


def test_an_unknown_task_is_kept(make_fleet: Callable[..., Fleet]) -> None:
    """A task this worker has never heard of becomes a row, its body not in the log."""
    fleet = make_fleet()
    worker = fleet.worker()
    result = fleet.send("from_the_future", "a-secret-argument")
    rows = wait_until(fleet.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(result.id, Reason.UNKNOWN_TASK)]
    assert "a-secret-argument" not in worker.log()


# a raw message body, its content type
UNREADABLE = [
    # not JSON at all
    (b"{{{", "application/json"),
    # JSON, but not [args, kwargs, embed]
    (b'{"a": 1}', "application/json"),
    # positional arguments that are no list
    (b'{"args": 1}', "application/json"),
    # keyword arguments that are no mapping
    (b"[[], 1, {}]", "application/json"),
    # a pickle, which the worker does not accept
    (b"\x80\x04N.", "application/x-python-serialize"),
]


@pytest.mark.parametrize(("body", "content_type"), UNREADABLE)
def test_a_message_nobody_can_read_is_quarantined(
    make_fleet: Callable[..., Fleet], body: bytes, content_type: str
) -> None:
    """Celery acknowledges such messages without a word; here each is one row."""
    fleet = make_fleet()
    worker = fleet.worker()
    with fleet.app.producer_pool.acquire() as producer:
        producer.publish(
            body,
            routing_key="celery",
            content_type=content_type,
            content_encoding="utf-8",
            headers={"task": f"{MODULE}.call", "id": "unreadable", "lang": "py"},
        )
    rows = wait_until(fleet.dead)
    assert len(rows) == 1
    assert rows[0].reason in {Reason.UNDECODABLE, Reason.INVALID_MESSAGE}
    assert fleet.send("ungoverned", 1).get(timeout=TIMEOUT) == 1
    assert worker.running


def test_an_expired_task_is_recorded_and_not_called(
    make_fleet: Callable[..., Fleet], redis_url: str
) -> None:
    """A task that expires while it waits makes no call and leaves a row."""
    fleet = make_fleet()
    fleet.worker()
    pause_upstream(redis_url, "api", 4)
    result = fleet.send("call", expires=1)
    rows = wait_until(fleet.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(result.id, Reason.EXPIRED)]
    assert not fleet.ledger("call")


def test_the_limiter_going_away_loses_nothing(
    tmp_path: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tasks wait while the limiter store is down, and run when it is back."""
    from governor.testing.redis_server import PrivateRedis

    with PrivateRedis(tmp_path_factory.mktemp("limiter")) as limiter:
        fleet = Fleet(
            tmp_path, redis_url, redis_url, f"sqlite:///{tmp_path / 'dead.sqlite'}",
            conf={"governor_redis_url": limiter.url},
        )  # fmt: skip
        try:
            worker = fleet.worker()
            limiter.kill()
            results = [fleet.send("call", number) for number in range(5)]
            worker.wait_for_log("limiter store")
            assert fleet.send("ungoverned", 9).get(timeout=TIMEOUT) == 9
            assert not fleet.ledger("call")
            limiter.restart()
            assert [result.get(timeout=TIMEOUT) for result in results] == list(range(5))
            assert len(fleet.ledger("call")) == 5
        finally:
            fleet.close()
