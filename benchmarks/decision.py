"""Latency of one admission, against the cheapest script call redis-py can make.

Asked as a worker asks: one client, one private Redis over TCP on this machine. One limit, three
limits, and ``evalsha("return 1")`` of redis-py take turns, so that all meet the same machine.

    python -m benchmarks.decision --calls 20000
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks.fleet import Fleet, main, percentile
from governor import Limit, Upstream
from governor.execution.admission import Admission, Call
from governor.execution.header import Header
from governor.governor import Governor
from governor.policy.plan import CallPlan

_TURN = 50
"""Calls of one kind before the next has its turn."""

_LIMITS = (
    Limit("1000000/s", burst=1_000_000),
    Limit("60000000/min", burst=1_000_000),
    Limit("3600000000/h", burst=1_000_000),
)


def measure(calls: int) -> dict[str, Any]:
    """Microseconds at the 50th, 95th and 99th percentile, and the ratios of the medians."""
    with Fleet() as fleet:
        governor = Governor.of(fleet.app)
        admission = governor.admission
        script = fleet.redis.script_load("return 1")
        kinds: dict[str, Callable[[], object]] = {
            "redis_py_evalsha": lambda: fleet.redis.evalsha(script, 1, "key"),
            "one_limit": _admission(admission, "one", _LIMITS[:1]),
            "three_limits": _admission(admission, "three", _LIMITS),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for call in kinds.values():
            for _ in range(_TURN):
                call()
        for _ in range(calls // _TURN):
            for kind, call in kinds.items():
                for _ in range(_TURN):
                    started = time.perf_counter_ns()
                    call()
                    times[kind].append((time.perf_counter_ns() - started) / 1000)
        governor.store.close()
    base = median(times["redis_py_evalsha"])
    return {
        "microseconds": {
            kind: {f"p{p}": round(percentile(found, p / 100), 1) for p in (50, 95, 99)}
            for kind, found in times.items()
        },
        "ratio": {
            kind: round(median(times[kind]) / base, 3) for kind in ("one_limit", "three_limits")
        },
    }


def _admission(admission: Admission, name: str, limits: tuple[Limit, ...]) -> Callable[[], object]:
    plan = CallPlan.of("benchmark", Upstream(name, *limits))
    charges = plan.charges((), {})
    header = Header(upstream=name)
    return lambda: admission.ask(Call(plan, charges, header))


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {
        "no slower than redis-py's empty script, one limit": figures["ratio"]["one_limit"] <= 1,
        "no slower than redis-py's empty script, three": figures["ratio"]["three_limits"] <= 1,
    }


if __name__ == "__main__":
    main(__doc__, {"calls": 20_000}, measure, bars)
