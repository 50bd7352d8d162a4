"""Every end of a body settles in every pool: a row or a result, acknowledged, its leases back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from governor.ports import Reason
from tests.integration.fleet import Fleet, wait_until
from tests.servers.fault_proxy import Fault, FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.worker]

RAISED = ["KeyboardInterrupt", "CancelledError", "GeneratorExit", "SystemExit"]
POOLS = ["prefork", "threads", "gevent", "solo"]
TIMEOUT = 40
QUICK = {
    "broker_transport_options": {
        "visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
    },
    "governor_claim_lease": 2,
}  # fmt: skip


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(broker_url: str | None = None, **conf: Any) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        module = "tests.integration.ends_app"
        broker = broker_url or redis_url
        made.append(Fleet(tmp_path, broker, redis_url, database, module=module, conf=conf))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def unacknowledged(fleet: Fleet) -> int:
    with redis.Redis.from_url(fleet.broker_url) as client:
        return int(client.hlen("unacked"))


@pytest.mark.parametrize("pool", POOLS)
def test_whatever_a_body_raises_is_one_row(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """Exceptions that are no ``Exception`` are deaths: each is a row, acknowledged, and gives its
    lease of a concurrency limit of one back; the worker goes on."""
    fleet = make_fleet(governor_hold=20)
    fleet.worker(pool)
    sent = {fleet.send("raises", what).id: what for what in RAISED}
    results = [fleet.send("good", number) for number in range(20)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(20))
    rows = wait_until(fleet.dead, lambda rows: len(rows) == len(sent))
    assert {row.task_id: row.reason for row in rows} == dict.fromkeys(sent, Reason.SYSTEM_EXIT)
    assert all(sent[row.task_id] in f"{row.exc_type} {row.exc_message}" for row in rows)
    wait_until(lambda: unacknowledged(fleet), lambda left: left == 0)


@pytest.mark.parametrize("pool", POOLS)
def test_handlers_that_raise_lose_no_death(make_fleet: Callable[..., Fleet], pool: str) -> None:
    """``on_failure`` and ``after_return`` fail: the failed body is one row all the same,
    acknowledged, and its lease given back."""
    fleet = make_fleet(governor_hold=20)
    fleet.worker(pool)
    sent = [fleet.send("quarrels").id for _ in range(8)]
    results = [fleet.send("good", number) for number in range(20)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(20))
    rows = wait_until(fleet.dead, lambda rows: len(rows) == len(sent))
    assert {row.task_id for row in rows} == set(sent)
    wait_until(lambda: unacknowledged(fleet), lambda left: left == 0)


def test_celery_does_not_run_a_lost_body_again_beside_us(make_fleet: Callable[..., Fleet]) -> None:
    """With ``task_reject_on_worker_lost`` for the whole app an idempotent body that ends its
    process runs three times, as without it; then it is one row, and acknowledged."""
    fleet = make_fleet(task_reject_on_worker_lost=True, task_acks_on_failure_or_timeout=False)
    fleet.worker()
    sent = fleet.send("kills_its_process")
    (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
    assert (row.task_id, row.reason) == (sent.id, Reason.WORKER_LOST)
    wait_until(lambda: unacknowledged(fleet), lambda left: left == 0)
    assert len(fleet.ledger("kills_its_process")) == 3


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_running_body_is_not_called_again_when_the_broker_drops_the_worker(
    make_fleet: Callable[..., Fleet], redis_url: str, pool: str
) -> None:
    """Its claim stays while it runs: the message, which the broker hands out again, waits for its
    end and is dropped."""
    port = int(redis_url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])
    with FaultProxy("127.0.0.1", port) as proxy:
        fleet = make_fleet(f"redis://127.0.0.1:{proxy.port}/0", **QUICK)
        worker = fleet.worker(pool)
        result = fleet.send("long", 6)
        wait_until(lambda: fleet.ledger("long"))
        # Once: a second loss while it connects again may end a worker in kombu, ours or not.
        proxy.fault = Fault.RESET
        proxy.fault = Fault.NONE
        worker.wait_for_log("Connection to broker lost")
        assert result.get(timeout=TIMEOUT) == "done"
        again = fleet.send("good", 1)
        assert again.get(timeout=TIMEOUT) == 1
        with redis.Redis.from_url(redis_url) as client:
            wait_until(lambda: client.hlen("unacked") + client.llen("celery"), lambda n: n == 0)
        assert len(fleet.ledger("long")) == 1
        assert not fleet.dead()


def test_a_cold_stop_loses_no_body_that_did_not_call(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """Stopped cold while bodies are told to wait, a worker leaves their messages with the broker:
    each makes its call in the next worker."""
    fleet = make_fleet(**QUICK, worker_soft_shutdown_timeout=0)
    marker = tmp_path / "go"
    worker = fleet.worker()
    results = [fleet.send("throttled_at_first", number, str(marker)) for number in range(30)]
    wait_until(lambda: fleet.stats("throttled"), lambda seen: seen >= 5)
    worker.signal(signal.SIGQUIT)
    worker.wait(TIMEOUT)
    marker.touch()
    fleet.worker()
    assert sorted(result.get(timeout=TIMEOUT) for result in results) == list(range(30))
    assert {line["number"] for line in fleet.ledger("throttled_at_first")} == set(range(30))
    assert not fleet.dead()
