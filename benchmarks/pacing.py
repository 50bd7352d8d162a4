"""Calls at a limit: makespan against the ideal, loss, rejections, limiter calls, messages.

Two workers of two places make 2,000 calls to a stand-in upstream over HTTP, whose own token
bucket has exactly the declared rate and burst, and whose ledger is what is counted. All tasks
are published before the workers, which are up, see the first. Once with waits held inside the
worker, once deferred to the broker as soon as they exceed a second.

    python -m benchmarks.pacing --tasks 2000 --rate 200
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.fleet import Fleet, main, read_lines, wait_until

HOLDS = {"held": 15.0, "deferred": 1.0}


def measure(tasks: int, rate: int, burst: int) -> dict[str, Any]:
    """Both ways of waiting."""
    return {name: run(tasks, rate, burst, hold) for name, hold in HOLDS.items()}


def run(tasks: int, rate: int, burst: int, hold: float) -> dict[str, Any]:
    """One run. Times are seconds from the first call to the last."""
    with Fleet(rate=f"{rate}/s", burst=burst, hold=hold) as fleet:
        path = fleet.upstream(rate=rate, burst=burst)
        sent = fleet.send("governed.call", tasks)
        # Out of the workers' sight until they are up. The messages still name their queue.
        fleet.redis.rename("celery", "shelf")
        fleet.worker()
        fleet.worker()
        fleet.redis.rename("shelf", "celery")
        wait_until(fleet.drained, timeout=60 + 3 * tasks / rate)
        # The workers write their counters twice a second.
        wait_until(lambda: fleet.stats("waiting") == 0 and fleet.stats("admitted") >= tasks)
        calls = [line for line in read_lines(path) if line["event"] == "began"]
        made = Counter(c["task"] for c in calls if c["verdict"] in {"ok", "repeated"})
        moments = [c["mono"] / 1e6 for c in calls]
        makespan = max(moments) - min(moments)
        ideal = (tasks - burst) / rate
        rejected = sum(c["verdict"] == "rejected" for c in calls)
        return {
            "makespan_seconds": round(makespan, 3),
            "ideal_seconds": round(ideal, 3),
            "makespan_ratio": round(makespan / ideal, 4),
            "lost": len(set(sent) - set(made)),
            "duplicated": sum(number - 1 for number in made.values()),
            "rejected": rejected,
            "rejected_share": round(rejected / len(calls), 5),
            "limiter_calls_per_task": round(fleet.stats("limiter_calls") / tasks, 3),
            "broker_messages_per_task": round(1 + fleet.stats("broker_messages") / tasks, 3),
            "load": round(os.getloadavg()[0], 2),
        }


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    held, deferred = figures["held"], figures["deferred"]
    both = (held, deferred)
    return {
        "makespan at most 1.02 of the ideal, held": held["makespan_ratio"] <= 1.02,
        "makespan at most 1.02 of the ideal, deferred": deferred["makespan_ratio"] <= 1.02,
        "nothing lost or duplicated": not any(f["lost"] or f["duplicated"] for f in both),
        "rejections at most 0.1 %": all(f["rejected_share"] <= 0.001 for f in both),
        "at most 1.1 limiter calls a task, held": held["limiter_calls_per_task"] <= 1.1,
        "at most 2.1 limiter calls a task, deferred": deferred["limiter_calls_per_task"] <= 2.1,
        "at most 2.1 messages a task, deferred": deferred["broker_messages_per_task"] <= 2.1,
    }


if __name__ == "__main__":
    main(__doc__, {"tasks": 2000, "rate": 200, "burst": 20}, measure, bars)
