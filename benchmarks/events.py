"""What events cost: processor time of a governed no-op task in a worker that serves metrics for
Prometheus, in one with a listener that does nothing, and in one that nobody listens to.

Each worker has two prefork processes and stays up; they take turns, so that a busy machine is as
busy for all. The time is that of the main process and of its pool, read from the kernel. A ratio
is of two rounds that ran next to each other; its median and quartiles over all rounds are given.
Beside it stands the time of the events of one such task alone, told again and again in this
process.

    python -m benchmarks.events --tasks 3000 --rounds 7
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.fleet import Fleet, main, wait_until
from governor.events import (
    DecisionMade,
    Emitter,
    StoreAnswered,
    TaskAdmitted,
    TaskStarted,
    TaskSucceeded,
)
from governor.telemetry.prometheus import Metrics

KINDS = ("silent", "metrics")
TASK = ("0f5f9d4e-2a77-4a39-93b5-9d7fd6b3f3a1", "governed.noop", "api")
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
    told = alone(Metrics({TASK[1]}, [(TASK[1], TASK[2])], dict))
    return {
        "cpu_us_per_task": {kind: round(median(spent[kind]), 1) for kind in KINDS},
        "metrics_to_silent": round(middle, 3),
        "metrics_to_silent_quartiles": f"{low:.3f} to {high:.3f}",
        "events_of_a_task_us": round(told, 2),
        "events_of_a_task_share": round(told / silent, 4),
    }


def alone(listener: Callable[[Any], object]) -> float:
    """Microseconds of processor time of the five events of a task that runs at once."""
    events = Emitter()
    events.listen(listener)
    best = float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for at in range(_TOLD):
            if events.listeners:
                events.emit(StoreAnswered(at, "admit", 1, 200))
                events.emit(TaskAdmitted(at, *TASK, 0, 0, 0, "", "", ""))
                events.emit(DecisionMade(at, *TASK, 300, "running"))
                events.emit(TaskStarted(at, *TASK, 400))
                events.emit(TaskSucceeded(at, *TASK, 100))
        best = min(best, (time.process_time_ns() - began) / _TOLD / 1_000)
    return best


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
    return {"events cost at most 2 % of a task": figures["events_of_a_task_share"] <= 0.02}


if __name__ == "__main__":
    main(__doc__, {"tasks": 3000, "rounds": 7}, measure, bars)
