"""Bodies that start late in real workers: they run all the same, at the declared rate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet import Fleet, wait_until

pytestmark = pytest.mark.redis

MODULE = "tests.integration.late_app"
TASKS = 20
MEGABYTES = 20


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    """Makes a fleet of this app, with the configuration given."""
    made: list[Fleet] = []

    def make(env: dict[str, str] | None = None, **conf: Any) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        made.append(
            Fleet(tmp_path, redis_url, redis_url, database, conf=conf, module=MODULE, **env or {})
        )
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def all_ran(fleet: Fleet, task: str, ids: set[str]) -> None:
    """Wait until each has run, and see that none did twice."""
    wait_until(lambda: began(fleet, task) == ids, timeout=60)
    wait_until(lambda: fleet.stats("waiting") == 0 and fleet.stats("admitted") >= len(ids))
    assert len(fleet.ledger(task)) == len(ids)
    assert fleet.dead() == []


@pytest.mark.parametrize("task", ["call", "charge"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_bodies_that_always_start_late_run(
    make_fleet: Callable[..., Fleet], pool: str, task: str
) -> None:
    """A handler takes longer than the grace before every body: each runs once, few are handed over
    twice, and the worker says so once."""
    fleet = make_fleet({"PRERUN": "0.08"})
    worker = fleet.worker(pool)
    ids = {fleet.send(task, number).id for number in range(TASKS)}
    all_ran(fleet, task, ids)
    assert fleet.stats("admitted") <= 1.5 * TASKS
    assert worker.log().count("Worker starts are late") == 1
    findings = json.loads(fleet.command("doctor", "--json").stdout)["findings"]
    (said,) = [found for found in findings if found["check"] == "worker starts"]
    assert said["level"] == "warning"
    assert said["message"].startswith(f"{worker.name}: ")
    assert said["message"].endswith("ms after its slot; the grace is 50 ms")


def test_a_process_for_each_task_is_soon_enough(make_fleet: Callable[..., Fleet]) -> None:
    """Where each body waits for its process to start, all run."""
    fleet = make_fleet(worker_max_tasks_per_child=1)
    fleet.worker()
    all_ran(fleet, "call", {fleet.send("call", number).id for number in range(TASKS)})


@pytest.mark.parametrize("parking", ["held", "parked"])
def test_large_arguments_are_soon_enough(make_fleet: Callable[..., Fleet], parking: str) -> None:
    """Arguments that take longer than the grace to decode are handed over twice at the most,
    and run."""
    fleet = make_fleet({"RATE": "5/s"}, governor_hold=30 if parking == "held" else 0.1)
    fleet.worker()
    many = {f"name{number}": "x" * 10 for number in range(100_000)}
    ids = {fleet.app.send_task(f"{MODULE}.call", kwargs=many).id for _ in range(6)}
    all_ran(fleet, "call", ids)
    assert fleet.stats("admitted") <= 2 * len(ids)


@pytest.mark.parametrize("hold", [30, 0.1])
def test_arguments_of_twenty_megabytes_take_little_more_memory_than_with_celery_alone(
    make_fleet: Callable[..., Fleet], hold: float
) -> None:
    """Such tasks run once each, and no process of a worker ever holds two copies of the arguments
    more than without a governor."""
    fleet = make_fleet({"RATE": "5/s"}, governor_hold=hold)
    peaks: dict[str, list[int]] = {}
    for task in ("plain", "call"):
        ids = {fleet.send(task, "x" * MEGABYTES * 1_000_000).id for _ in range(4)}
        worker = fleet.worker()
        wait_until(lambda task=task, ids=ids: ids <= began(fleet, task), timeout=60)
        peaks[task] = peak_memory(worker.pid)
        worker.terminate()
    assert len(fleet.ledger("call")) == 4
    for ours, plain in zip(peaks["call"], peaks["plain"], strict=True):
        assert ours < plain + 2 * MEGABYTES, peaks


def began(fleet: Fleet, task: str) -> set[str]:
    return {line["id"] for line in fleet.ledger(task)}


def peak_memory(pid: int) -> list[int]:
    """The most memory, in megabytes, that a worker's main process and the largest process of its
    pool have held."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    main, *pool = (_peak(int(process)) for process in (pid, *children))
    return [main, max(pool)]


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1000
