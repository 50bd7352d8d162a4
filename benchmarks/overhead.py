"""Governed no-op tasks under a limit that never binds, against the same worker ungoverned.

Three workers of two places stay up, one for each kind, and take turns: Celery without a
governor, the same acknowledging late, and governed. A round's tasks are put into a queue that
nobody reads; then the queue is renamed, all at once, and the time until the broker is empty is
taken. The workers that are not at turn are idle.

    python -m benchmarks.overhead --tasks 3000 --rounds 7
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.fleet import Fleet, main, wait_until

POOLS = ("prefork", "threads")
KINDS = {"plain": "plain.noop", "plain_late": "plain.noop_late", "governed": "governed.noop"}
_WARM_UP = 200


def measure(tasks: int, rounds: int) -> dict[str, Any]:
    """Tasks a second of each kind, medians, and the ratios of the rounds."""
    return {pool: run(tasks, rounds, pool) for pool in POOLS}


def run(tasks: int, rounds: int, pool: str) -> dict[str, Any]:
    with Fleet() as fleet:
        ungoverned = replace(fleet.settings, governed=False)
        for kind in KINDS:
            settings = fleet.settings if kind == "governed" else ungoverned
            fleet.worker(pool=pool, queue=kind, settings=settings)
        for kind, task in KINDS.items():
            _round(fleet, kind, task, _WARM_UP)
        speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            kinds = list(KINDS.items())
            for kind, task in kinds if number % 2 else reversed(kinds):
                speeds[kind].append(tasks / _round(fleet, kind, task, tasks))
    ratios = {
        f"governed_to_{kind}": round(
            median(g / p for g, p in zip(speeds["governed"], speeds[kind], strict=True)), 3
        )
        for kind in ("plain", "plain_late")
    }
    return {
        "tasks_per_second": {kind: round(median(found)) for kind, found in speeds.items()},
        "slowest_and_fastest": {k: f"{min(s):.0f} to {max(s):.0f}" for k, s in speeds.items()},
        **ratios,
    }


def _round(fleet: Fleet, kind: str, task: str, tasks: int) -> float:
    """Seconds until a worker has emptied its queue."""
    fleet.send(task, tasks, queue="shelf")
    started = time.perf_counter()
    fleet.redis.rename("shelf", kind)
    wait_until(lambda: fleet.drained(kind))
    return time.perf_counter() - started


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {
        f"at least 0.9 of the ungoverned worker, {pool}": figures[pool]["governed_to_plain"] >= 0.9
        for pool in POOLS
    }


if __name__ == "__main__":
    main(__doc__, {"tasks": 3000, "rounds": 7}, measure, bars)
