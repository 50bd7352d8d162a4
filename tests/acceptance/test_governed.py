"""Governed tasks in real workers, through pytest-celery's own setup, over Redis and RabbitMQ.

The limits live in a Redis of their own: RabbitMQ is none, and the broker's Redis may be
emptied without touching them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature
from pytest_celery import CeleryTestBroker, CeleryTestSetup

from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import DeadLetter
from governor.ports import Reason
from tests.acceptance.celery_nodes import LocalRedisContainer
from tests.integration.fleet import wait_until
from tests.servers.worker_process import WorkerProcess

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.acceptance.governed_app"
TASKS = "tests.integration.governed_app"
TIMEOUT = 30


@pytest.fixture
def worker_app_module() -> str:
    return MODULE


@pytest.fixture
def limit() -> tuple[str, int]:
    """Rate and burst of the upstream; a test that needs others overrides it by parameter."""
    return "20/s", 2


@pytest.fixture
def hold() -> float:
    """``governor_hold``: 0 sends every task that has to wait back to the broker."""
    return 10.0


@pytest.fixture
def worker_env(
    redis_url: str,
    tmp_path: Path,
    celery_broker: CeleryTestBroker,
    limit: tuple[str, int],
    hold: float,
) -> Mapping[str, str]:
    conf: dict[str, Any] = {
        "governor_hold": hold,
        "governor_claim_lease": 1,
        "governor_stats_file": str(tmp_path / "stats"),
    }
    if isinstance(celery_broker.container, LocalRedisContainer):
        # A killed worker's messages come back after two seconds instead of an hour.
        conf["broker_transport_options"] = {
            "visibility_timeout": 2,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    rate, burst = limit
    return {
        "LIMITER_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'dead.sqlite'}",
        "SPILL_DIR": str(tmp_path / "spill"),
        "LEDGER": str(tmp_path / "ledger"),
        "CONF": json.dumps(conf),
        "RATE": rate,
        "BURST": str(burst),
    }


@dataclass(frozen=True)
class Governed:
    """The setup, and what can be seen of its tasks from outside."""

    setup: CeleryTestSetup
    env: Mapping[str, str]
    letters: SqlDeadLetters

    @property
    def app(self) -> Celery:
        return self.setup.app

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Publish by name, as a producer that has never heard of the governor."""
        return self.app.send_task(f"{TASKS}.{task}", args, **options)

    def signature(self, task: str, *args: Any, **options: Any) -> Signature:
        return self.app.signature(f"{MODULE}.{task}", args, options=options)

    def calls(self, task: str) -> list[dict[str, Any]]:
        """What the bodies of one task type wrote, in order."""
        path = Path(self.env["LEDGER"])
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call["task"].endswith(f".{task}")]

    def dead(self) -> list[DeadLetter]:
        return list(self.letters.list(Filters(), 1000))


@pytest.fixture
def governed(celery_setup: CeleryTestSetup, worker_env: Mapping[str, str]) -> Iterator[Governed]:
    engine = bounded_engine(worker_env["DATABASE_URL"])
    schema.upgrade(engine)
    letters = SqlDeadLetters(engine, redact=str)
    yield Governed(celery_setup, worker_env, letters)
    letters.close()


def test_two_workers_share_one_limit(governed: Governed, tmp_path: Path) -> None:
    """The limit is the fleet's: two workers together never exceed it, and every task runs once."""
    conf = governed.app.conf
    with WorkerProcess(
        MODULE,
        conf.broker_url,
        backend_url=conf.result_backend,
        directory=tmp_path,
        env=governed.env,
    ):
        results = [governed.send("call", number) for number in range(40)]
        assert [result.get(timeout=TIMEOUT) for result in results] == list(range(40))
    calls = governed.calls("call")
    assert len(calls) == 40
    moments = sorted(call["at"] for call in calls)
    for i, start in enumerate(moments):
        for j in range(i, len(moments)):
            # burst 2, rate 20/s, 50 ms of grace, and one for the edges
            assert j - i + 1 <= 2 + 20 * (moments[j] - start + 0.05) + 1
    assert moments[-1] - moments[0] >= 37 / 20


@pytest.mark.parametrize(("limit", "hold"), [(("1/s", 1), 0.0)])
def test_a_deferred_task_is_the_same_task(governed: Governed) -> None:
    """A task that was handed back to the broker keeps its id, attempt, priority, headers, expiry
    and arguments of every JSON type."""
    governed.send("call", 0)
    values = [1, 2.5, "ünï", None, True, {"a": [1, {"b": 2**40}]}]
    result = governed.signature("show", *values).apply_async(
        priority=3, headers={"mine": {"deep": [1, "x"]}}, expires=600
    )
    seen = result.get(timeout=TIMEOUT)
    assert seen["deferrals"] >= 1
    assert {key: seen[key] for key in seen if key != "deferrals"} == {
        "id": result.id,
        "root": result.id,
        "retries": 0,
        "priority": 3,
        "expires": True,
        "mine": {"deep": [1, "x"]},
        "key": result.id,
        "values": values,
    }
    assert len(governed.calls("show")) == 1


@pytest.mark.parametrize(("limit", "hold"), [(("2/s", 1), 0.0)])
def test_canvas_with_every_member_deferred(governed: Governed) -> None:
    """Chord, chain and group whose every member was handed back give the same results as those of
    ungoverned tasks."""

    def results(task: str) -> list[Any]:
        def add(*args: int) -> Signature:
            return governed.signature(task, *args)

        shapes = [
            chord([add(n, n) for n in range(3)], add(), app=governed.app),
            chain(add(1, 1), add(2), add(3), app=governed.app),
            group([add(4), add(5)], app=governed.app),
        ]
        started = [shape.apply_async() for shape in shapes]
        return [result.get(timeout=TIMEOUT) for result in started]

    wanted = results("plain_add")
    assert wanted == [6, 7, [4, 5]]
    # It takes the one call that needs no waiting.
    assert governed.send("call", 0).get(timeout=TIMEOUT) == 0
    assert results("add") == wanted
    calls = governed.calls("add")
    assert len(calls) == 9
    assert all(call["deferrals"] >= 1 for call in calls)


def test_only_idempotent_tasks_are_retried(governed: Governed) -> None:
    """A transient failure of an idempotent task is tried again under one idempotency key; that of
    another is one call and one dead letter."""
    retried = governed.send("flaky", 2)
    fragile = governed.send("fragile")
    assert retried.get(timeout=TIMEOUT) == "done"
    calls = governed.calls("flaky")
    assert [call["retries"] for call in calls] == [0, 1, 2]
    assert {call["key"] for call in calls} == {retried.id}
    rows = wait_until(governed.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(fragile.id, Reason.NOT_IDEMPOTENT)]
    with pytest.raises(Exception, match="reset by peer"):
        fragile.get(timeout=TIMEOUT)
    assert len(governed.calls("fragile")) == 1
    assert len(governed.dead()) == 1


def test_throttled_waits_and_costs_no_retry(governed: Governed, tmp_path: Path) -> None:
    """After a 429 the task waits until Retry-After and runs as the same attempt, though it is not
    idempotent; other calls of the upstream stay away as long."""
    throttled = governed.send("throttled_once", str(tmp_path / "marker"), 1.0)
    wait_until(lambda: governed.calls("throttled_once"))
    other = governed.send("flaky", 0)
    assert throttled.get(timeout=TIMEOUT) == "done"
    assert other.get(timeout=TIMEOUT) == "done"
    first, second = governed.calls("throttled_once")
    assert (first["id"], first["retries"]) == (second["id"], second["retries"]) == (throttled.id, 0)
    assert second["at"] - first["at"] >= 1.0
    assert governed.calls("flaky")[0]["at"] - first["at"] >= 0.9
    assert not governed.dead()


def test_a_killed_worker(governed: Governed) -> None:
    """The broker hands a killed worker's messages out again: the call of an idempotent task is
    made again, that of another is not but becomes the dead letter ``outcome_unknown``."""
    once = governed.send("call_once", 1, 2.0)
    again = governed.send("call", 2, 2.0)
    wait_until(lambda: governed.calls("call_once") and governed.calls("call"))
    governed.setup.worker.kill()
    governed.setup.worker.restart()
    rows = wait_until(governed.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(once.id, Reason.OUTCOME_UNKNOWN)]
    assert again.get(timeout=TIMEOUT) == 2
    assert len(governed.calls("call_once")) == 1
    assert len(governed.calls("call")) >= 2


def test_a_message_nobody_can_read_is_one_row(governed: Governed) -> None:
    """Celery acknowledges an undecodable and an unknown message without a word; here each is one
    row, and the worker lives."""
    unknown = governed.send("from_the_future", 1)
    with governed.app.producer_pool.acquire() as producer:
        producer.publish(
            b"{{{",
            routing_key="celery",
            content_type="application/json",
            content_encoding="utf-8",
            headers={"task": f"{TASKS}.call", "id": "unreadable", "lang": "py"},
        )
    rows = wait_until(governed.dead, lambda rows: len(rows) >= 2)
    assert {row.task_id: row.reason for row in rows} == {
        unknown.id: Reason.UNKNOWN_TASK,
        "unreadable": Reason.UNDECODABLE,
    }
    assert governed.send("ungoverned", 1).get(timeout=TIMEOUT) == 1
