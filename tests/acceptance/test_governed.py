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

from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import DeadLetter
from governor.demo.ledger import JsonLines
from governor.ports import Reason
from tests.acceptance.celery_nodes import LocalRedisContainer
from tests.integration.fleet import (
    assert_within_limit,
    wait_until,
    wait_until_paused,
    watched_dead_letters,
)
from tests.servers.worker_process import WorkerProcess

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.acceptance.governed_app"
TASKS = "tests.integration.governed_app"
TIMEOUT = 30


@pytest.fixture
def worker_app_module() -> str:
    return MODULE


@pytest.fixture
def everyone_waits() -> bool:
    """Whether each new message of the upstream has to wait, whatever its limit allows."""
    return False


@pytest.fixture
def hold() -> float:
    """``governor_hold``: 0 sends every task that has to wait away from the worker."""
    return 10.0


@pytest.fixture
def parking() -> str:
    """Where it is sent."""
    return "store"


every_task_is_deferred = pytest.mark.parametrize(
    ("everyone_waits", "hold", "parking"), [(True, 0.0, "store"), (True, 0.0, "broker")]
)


@pytest.fixture
def worker_env(
    redis_url: str,
    tmp_path: Path,
    celery_broker: CeleryTestBroker,
    everyone_waits: bool,
    hold: float,
    parking: str,
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
    return {
        "LIMITER_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'dead.sqlite'}",
        "SPILL_DIR": str(tmp_path / "spill"),
        "LEDGER": str(tmp_path / "ledger"),
        "CONF": json.dumps(conf),
        "RATE": "20/s",
        "BURST": "2",
        "PARKING": parking,
        **({"EVERYONE_WAITS_ONCE": "1"} if everyone_waits else {}),
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
        lines = JsonLines(Path(self.env["LEDGER"])).read()
        return [call for call in lines if call["task"].endswith(f".{task}")]

    def dead(self) -> list[DeadLetter]:
        return list(self.letters.list(Filters(), 1000))


@pytest.fixture
def governed(celery_setup: CeleryTestSetup, worker_env: Mapping[str, str]) -> Iterator[Governed]:
    letters = watched_dead_letters(worker_env["DATABASE_URL"])
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
        # Before the second worker is killed, perhaps with an acknowledgement on its way.
        calls = governed.calls("call")
    assert len(calls) == 40
    assert_within_limit(calls, burst=2, rate=20)


@every_task_is_deferred
def test_a_deferred_task_is_the_same_task(governed: Governed) -> None:
    """A task that was parked, or handed back to the broker, keeps its id, attempt, priority,
    headers, expiry and arguments of every JSON type."""
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


@every_task_is_deferred
def test_canvas_with_every_member_deferred(governed: Governed) -> None:
    """Chord, chain and group whose every member was parked or handed back give the same results as
    those of ungoverned tasks."""

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
    throttled = governed.send("throttled_once", str(tmp_path / "marker"), 3.0)
    wait_until_paused(governed.env["LIMITER_URL"], "free")
    other = governed.send("flaky", 0)
    assert throttled.get(timeout=TIMEOUT) == "done"
    assert other.get(timeout=TIMEOUT) == "done"
    first, second = governed.calls("throttled_once")
    assert (first["id"], first["retries"]) == (second["id"], second["retries"]) == (throttled.id, 0)
    # The limiter's clock and the workers' are not the same.
    assert second["at"] - first["at"] >= 2.9
    assert governed.calls("flaky")[0]["at"] - first["at"] >= 2.9
    assert not governed.dead()


def test_a_killed_worker(governed: Governed, tmp_path: Path) -> None:
    """The broker hands a killed worker's messages out again: the call of an idempotent task is
    made again, that of another is not but becomes the dead letter ``outcome_unknown``."""
    once = governed.send("call_once", 1, 60.0)
    again = governed.send("hangs_once", str(tmp_path / "marker"))
    wait_until(lambda: governed.calls("call_once") and (tmp_path / "marker").exists())
    governed.setup.worker.kill()
    governed.setup.worker.restart()
    rows = wait_until(governed.dead)
    assert [(row.task_id, row.reason) for row in rows] == [(once.id, Reason.OUTCOME_UNKNOWN)]
    assert again.get(timeout=TIMEOUT) == "done"
    assert len(governed.calls("call_once")) == 1
    assert len(governed.calls("hangs_once")) >= 2


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
