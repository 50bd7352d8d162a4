"""Calls at a limit: makespan against the ideal, loss, rejections, limiter calls, messages.

Two workers of two places make 2,000 calls to a stand-in upstream over HTTP, whose own token
bucket has exactly the declared rate and burst, and whose ledger is what is counted. All tasks
are published before the workers, which are up, see the first. Once with waits held inside the
worker; and as soon as they exceed a second, once deferred to the broker and once parked in the
store.

    python -m benchmarks.pacing --tasks 2000 --rate 200
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.fleet import Fleet, main, read_lines, wait_until
from governor.policy.upstream import Parking

WAYS: dict[str, tuple[float, Parking]] = {
    "held": (15.0, "store"),
    "deferred": (1.0, "broker"),
    "parked": (1.0, "store"),
}
"""Each way of waiting: ``governor_hold``, and where longer waits are spent."""


def measure(tasks: int, rate: int, burst: int) -> dict[str, Any]:
    """All ways of waiting."""
    return {name: run(tasks, rate, burst, *way) for name, way in WAYS.items()}


def run(tasks: int, rate: int, burst: int, hold: float, parking: Parking) -> dict[str, Any]:
    """One run. Times are seconds from the first call to the last."""
    with Fleet(rate=f"{rate}/s", burst=burst, hold=hold, parking=parking) as fleet:
        path = fleet.upstream(rate=rate, burst=burst)
        sent = fleet.send("governed.call", tasks)
        # Out of the workers' sight until they are up. The messages still name their queue.
        fleet.redis.rename("celery", "shelf")
        fleet.worker()
        fleet.worker()
        fleet.redis.rename("shelf", "celery")
        wait_until(lambda: fleet.drained() and fleet.parked() == 0, timeout=60 + 3 * tasks / rate)
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
    held, deferred, parked = (figures[way] for way in WAYS)
    ways = (held, deferred, parked)
    return {
        "makespan at most 1.02 of the ideal, held": held["makespan_ratio"] <= 1.02,
        "makespan at most 1.02 of the ideal, deferred": deferred["makespan_ratio"] <= 1.02,
        "makespan at most 1.02 of the ideal, parked": parked["makespan_ratio"] <= 1.02,
        "nothing lost or duplicated": not any(f["lost"] or f["duplicated"] for f in ways),
        "rejections at most 0.1 %": all(f["rejected_share"] <= 0.001 for f in ways),
        "at most 1.1 limiter calls a task, held": held["limiter_calls_per_task"] <= 1.1,
        "at most 2.1 limiter calls a task, deferred": deferred["limiter_calls_per_task"] <= 2.1,
        "at most 2.1 messages a task, deferred": deferred["broker_messages_per_task"] <= 2.1,
        "at most 2 limiter calls a task, parked": parked["limiter_calls_per_task"] <= 2,
        "at most 2 messages a task, parked": parked["broker_messages_per_task"] <= 2,
    }


if __name__ == "__main__":
    main(__doc__, {"tasks": 2000, "rate": 200, "burst": 20}, measure, bars)
