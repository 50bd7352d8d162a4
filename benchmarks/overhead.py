"""Governed no-op tasks under a limit that never binds, against the same worker ungoverned.

Three workers of two places stay up, one for each kind, and take turns: Celery without a
governor, the same acknowledging late, and governed. Each kind's messages are published once; a
round copies them, all at once, into the queue of its worker, and takes the time until the broker
is empty. Nobody publishes meanwhile, and the workers that are not at turn are idle. A ratio is of
two rounds that ran next to each other; its median and quartiles over all rounds are given.

    python -m benchmarks.overhead --tasks 3000 --rounds 7
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from statistics import median, quantiles
from typing import Any

from benchmarks.fleet import Fleet, main, wait_until

POOLS = ("prefork", "threads")
KINDS = {"plain": "plain.noop", "plain_late": "plain.noop_late", "governed": "governed.noop"}


def measure(tasks: int, rounds: int) -> dict[str, Any]:
    """Tasks a second of each kind, medians, and the ratios of the rounds."""
    return {pool: run(tasks, rounds, pool) for pool in POOLS}


def run(tasks: int, rounds: int, pool: str) -> dict[str, Any]:
    with Fleet() as fleet:
        # As it is by default: nothing counts, nothing listens.
        quiet = replace(fleet.settings, stats=False)
        ungoverned = replace(fleet.settings, governed=False)
        for kind in KINDS:
            settings = quiet if kind == "governed" else ungoverned
            fleet.worker(pool=pool, queue=kind, settings=settings)
        for kind, task in KINDS.items():
            fleet.send(task, tasks, queue=f"{kind}-shelf")
            _round(fleet, kind)
        speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            kinds = list(KINDS)
            for kind in kinds if number % 2 else reversed(kinds):
                speeds[kind].append(tasks / _round(fleet, kind))
    ratios: dict[str, object] = {}
    for kind in ("plain", "plain_late"):
        found = [g / p for g, p in zip(speeds["governed"], speeds[kind], strict=True)]
        low, middle, high = quantiles(found, method="inclusive")
        ratios[f"governed_to_{kind}"] = round(middle, 3)
        ratios[f"governed_to_{kind}_quartiles"] = f"{low:.2f} to {high:.2f}"
    return {
        "tasks_per_second": {kind: round(median(found)) for kind, found in speeds.items()},
        "slowest_and_fastest": {k: f"{min(s):.0f} to {max(s):.0f}" for k, s in speeds.items()},
        **ratios,
    }


def _round(fleet: Fleet, kind: str) -> float:
    """Seconds until a worker has emptied its queue."""
    started = time.perf_counter()
    fleet.redis.copy(f"{kind}-shelf", kind)
    wait_until(lambda: fleet.drained(kind))
    return time.perf_counter() - started


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {
        f"at least 0.95 of the ungoverned worker, {pool}": figures[pool]["governed_to_plain"]
        >= 0.95
        for pool in POOLS
    }


if __name__ == "__main__":
    main(__doc__, {"tasks": 3000, "rounds": 7}, measure, bars)
