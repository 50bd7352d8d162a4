"""A busy pool while tasks arrive: is the limit kept once it is free?

Both pool slots of a worker are taken for 4 s; 100 tasks of a 10/s limit arrive meanwhile. For
every window W between two calls, calls − (burst + rate × (W + grace)) is computed; the largest
must not be above 0.

    python -m benchmarks.busy_pool --tasks 100
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from benchmarks.figures import excess
from benchmarks.fleet import Fleet, main, wait_until

RATE = 10
BURST = 1
GRACE = 0.05
"""Seconds: the default of ``governor_grace``."""


def measure(tasks: int, busy: int) -> dict[str, Any]:
    """In a pool of processes and in one of threads."""
    return {pool: run(tasks, busy, pool) for pool in ("prefork", "threads")}


def run(tasks: int, busy: int, pool: str) -> dict[str, Any]:
    with Fleet(rate=f"{RATE}/s", burst=BURST, hold=15.0) as fleet:
        fleet.worker(pool=pool)
        fleet.send("plain.busy", 2, float(busy))
        wait_until(lambda: len(fleet.ledger("busy")) == 2)
        fleet.send("governed.mark", tasks)
        wait_until(fleet.drained, timeout=60 + 2 * tasks / RATE)
        moments = [line["at"] for line in fleet.ledger("mark")]
        free = max(line["at"] for line in fleet.ledger("busy")) + busy
        return {
            "calls": len(moments),
            "excess": round(excess(moments, burst=BURST, rate=RATE, grace=GRACE), 3),
            "rate_after": round((len(moments) - 1) / (max(moments) - min(moments)), 3),
            "first_call_after_free_seconds": round(min(moments) - free, 3),
            "load": round(os.getloadavg()[0], 2),
        }


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {
        f"never more than the limit, {pool}": figures[pool]["excess"] <= 0
        for pool in ("prefork", "threads")
    }


if __name__ == "__main__":
    main(__doc__, {"tasks": 100, "busy": 4}, measure, bars)
