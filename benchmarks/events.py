"""The cost of events: processor time of a governed no-op task in a worker that serves metrics for
Prometheus, and in one that nobody listens to.

Each worker has two prefork processes and stays up; they take turns, so that a busy machine is as
busy for all. The time is that of the main process and of its pool, read from the kernel. A ratio
is of two rounds that ran next to each other; its median and quartiles over all rounds are given.
A busy machine moves it by more than events cost, so beside it stands the time of the events of one
such task alone, as a dispatcher with a simulated clock tells them.

    python -m benchmarks.events --tasks 3000 --rounds 7
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from benchmarks.fleet import Fleet, main, wait_until
from governor.events import Emitter, TaskStarted
from governor.telemetry.prometheus import Metrics
from tests.unit.simulated_worker import SimulatedWorker

KINDS = ("silent", "metrics")
_TOLD = 20_000


def measure(tasks: int, rounds: int) -> dict[str, Any]:
    """Microseconds of processor time for each task, and their ratio."""
    with Fleet() as fleet:
        quiet = replace(fleet.settings, stats=False)
        settings = {"silent": quiet, "metrics": replace(quiet, metrics_port=_free_port())}
        workers = {kind: fleet.worker(queue=kind, settings=settings[kind]).pid for kind in KINDS}
        for kind in KINDS:
            fleet.send("governed.noop", tasks, queue=f"{kind}-shelf")
            _round(fleet, kind, workers[kind])
        spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind in KINDS if number % 2 else reversed(KINDS):
                spent[kind].append(_round(fleet, kind, workers[kind]) / tasks)
    found = [m / s for m, s in zip(spent["metrics"], spent["silent"], strict=True)]
    low, middle, high = quantiles(found, method="inclusive")
    silent = median(spent["silent"])
    events = told()
    return {
        "cpu_us_per_task": {kind: round(median(spent[kind]), 1) for kind in KINDS},
        "metrics_to_silent": round(middle, 3),
        "metrics_to_silent_quartiles": f"{low:.3f} to {high:.3f}",
        "events_of_a_task_us": round(events, 1),
        "events_of_a_task_share": round(events / silent, 4),
    }


def told(tasks: int = 1_000, turns: int = 5) -> float:
    """Microseconds of processor time that the events of a task that runs at once take: the
    difference between a dispatcher whose clock, pool and store are simulated with a listener and
    without one, and the event of the pool, which is not simulated."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * turns):
        heard = bool(turn % 2)
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            worker = SimulatedWorker(Path(folder), patch)
            governor = worker.governor
            metrics = Metrics(governor.app.tasks, governor.governed(), dict)
            governor.events.listeners = (metrics,) if heard else ()
            worker.run_for(10)
            began = time.process_time_ns()
            for _ in range(tasks):
                worker.send("again", "returns")
                worker.run_for(1)
            spent[heard].append((time.process_time_ns() - began) / tasks / 1_000)
    return min(spent[True]) - min(spent[False]) + _started(metrics)


def _started(metrics: Metrics) -> float:
    events = Emitter()
    events.listen(metrics)
    began = time.process_time_ns()
    for at in range(_TOLD):
        events.emit(TaskStarted(at, "0f5f9d4e-2a77-4a39-93b5-9d7fd6b3f3a1", "again", "api", 400))
    return (time.process_time_ns() - began) / _TOLD / 1_000


def _round(fleet: Fleet, kind: str, pid: int) -> float:
    """Microseconds of processor time that a worker takes to empty its queue."""
    before = _cpu(pid)
    fleet.redis.copy(f"{kind}-shelf", kind)
    wait_until(lambda: fleet.drained(kind))
    return _cpu(pid) - before


def _cpu(pid: int) -> float:
    """Microseconds of processor time of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for each in (str(pid), *children):
        for thread in Path(f"/proc/{each}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1_000


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {"events cost at most 2 % of a task": figures["metrics_to_silent"] <= 1.02}


if __name__ == "__main__":
    main(__doc__, {"tasks": 3000, "rounds": 7}, measure, bars)
