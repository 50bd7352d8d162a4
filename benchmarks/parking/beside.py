"""The same work without a parking lot, as it is done with Celery: N tasks at a rate."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.fleet import Fleet
from benchmarks.parking.probes import Messages, Stamps, resident, rounded, task_id
from governor.testing.child_process import ChildProcess

OURS = "governor, parked"
ETA = "Celery, countdown=n/rate"

WAYS = {
    OURS: "governed.stamp",
    ETA: "plain.stamp",
    "Celery, retry(countdown)": "retry.stamp",
    "celery-heimdall": "heimdall.stamp",
}
SETTINGS = {
    OURS: "Limit with a burst of a tenth of a second",
    ETA: "the producer gives each task its time; nobody counts calls",
    "Celery, retry(countdown)": "the body counts calls a second; one too many retries in the next",
    "celery-heimdall": "RateLimit((rate, 1)) with a key",
}


def beside(tasks: int, rate: int) -> dict[str, Any]:
    """Each way on two workers of its own, one after the other."""
    found = {}
    for name, task in WAYS.items():
        if (figures := _run(name, task, tasks, rate)) is not None:
            found[name] = figures
    return {"tasks": tasks, "rate": rate, "settings": SETTINGS, "ways": found}


def _run(name: str, task: str, tasks: int, rate: int) -> dict[str, Any] | None:
    with Fleet(governed=name == OURS, rate=f"{rate}/s", burst=max(1, rate // 10)) as fleet:
        if task not in fleet.app.tasks:
            return None
        workers = [fleet.worker() for _ in range(2)]
        stamps = Stamps(fleet)
        before = [resident(worker) for worker in workers]
        if name == ETA:
            _spread(fleet, task, tasks, rate)
        else:
            Messages(fleet, task).send(range(1, 1 + tasks), to="shelf")
            fleet.redis.rename("shelf", "celery")
        began = time.monotonic()
        ideal = tasks / rate
        growth = [0.0, 0.0]
        while stamps.look() < tasks and time.monotonic() < began + 10 + 3 * ideal:
            growth = [
                max(g, _growth(w, b)) for g, w, b in zip(growth, workers, before, strict=True)
            ]
            time.sleep(0.1)
        return rounded({
            "finished": len(stamps.all),
            "seconds": stamps.span(),
            "of_ideal": stamps.span() / ideal,
            "most_in_a_second": stamps.most_in(1.0),
            "over_the_rate": stamps.most_in(1.0) / rate,
            "rss_growth_mb": sum(growth),
            "load": os.getloadavg()[0],
        })  # fmt: skip


def _spread(fleet: Fleet, task: str, tasks: int, rate: int) -> None:
    """Each with its own time; the first when the last is published."""
    begin = time.monotonic() + 1 + tasks / 1_000
    with fleet.app.producer_or_acquire() as producer:
        signature = fleet.app.tasks[task].s()
        for number in range(tasks):
            signature.apply_async(
                producer=producer, countdown=begin + number / rate - time.monotonic(),
                task_id=task_id(number),
            )  # fmt: skip


def _growth(worker: ChildProcess, before: float) -> float:
    return resident(worker) - before
