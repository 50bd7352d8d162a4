"""Calls at a limit: the rate kept, loss, rejections, limiter calls, messages.

Two workers of two pool slots make calls to a stand-in upstream over HTTP, whose own token bucket
has exactly the declared rate and burst, and whose ledger is what is counted. First Celery alone
runs the same body, as fast as it can; the declared rate is half of that. All tasks are published
before the workers, which are up, see the first. Three ways of waiting: held inside the worker; and
as soon as a wait exceeds a second, deferred to the broker or parked in the store. All of it, Celery
alone too, is run alone and beside two processes that only count.

    python -m benchmarks.pacing --tasks 2000
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.fleet import Fleet, main, read_lines, wait_until
from governor.policy.upstream import Parking
from governor.testing.child_process import ChildProcess

WAYS: dict[str, tuple[float, Parking, float]] = {
    "held": (15.0, "store", 1.1),
    "deferred": (1.0, "broker", 2.1),
    "parked": (1.0, "store", 2.0),
}
"""Each way of waiting: ``governor_hold``, where longer waits are spent, and the most limiter calls
for each task."""

LEAST_RATE = 0.99
"""Share of the declared rate that is to be kept."""

MARGIN = 0.05
"""Seconds: the default of a limit's ``margin``."""

PLACES = {"alone": 0, "beside": 2}
"""Surroundings of each run: so many processes beside it that only count."""

_COUNT = "n = 0\nwhile True: n += 1"


def measure(tasks: int, rate: int, burst: int) -> dict[str, Any]:
    """Run Celery alone, then all ways of waiting at half of its rate; alone, and beside others."""
    figures: dict[str, Any] = {}
    for place, busy in PLACES.items():
        with counting(busy):
            plain = figures[f"plain, {place}"] = run_plain(tasks)
            half = rate or max(int(plain["calls_per_second"] / 2), 1)
            # A tenth of a second's calls: twice the margin.
            most = burst or max(half // 10, 20)
            for name, (hold, parking, _) in WAYS.items():
                figures[f"{name}, {place}"] = run(tasks, half, most, hold, parking)
    return figures


@contextmanager
def counting(processes: int) -> Iterator[None]:
    """Processes that take as much of the machine as they get."""
    command = [sys.executable, "-c", _COUNT]
    with ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(ChildProcess(command, log=Path(os.devnull)))
        yield


def run_plain(tasks: int) -> dict[str, Any]:
    """The same body without a governor, and without a limit."""
    with Fleet(governed=False) as fleet:
        path = fleet.upstream(rate=1_000_000, burst=1_000_000)
        moments = _made(fleet, path, "plain.call", tasks)
        return {
            "calls_per_second": round((tasks - 1) / (max(moments) - min(moments)), 1),
            "load": round(os.getloadavg()[0], 2),
        }


def run(tasks: int, rate: int, burst: int, hold: float, parking: Parking) -> dict[str, Any]:
    """One run. Times are seconds from the first call to the last."""
    with Fleet(rate=f"{rate}/s", burst=burst, hold=hold, parking=parking) as fleet:
        path = fleet.upstream(rate=rate, burst=burst)
        moments = _made(fleet, path, "governed.call", tasks)
        # The workers write their counters twice a second.
        wait_until(lambda: fleet.stats("waiting") == 0 and fleet.stats("admitted") >= tasks)
        calls = [line for line in read_lines(path) if line["event"] == "began"]
        made = Counter(c["task"] for c in calls if c["verdict"] in {"ok", "repeated"})
        makespan = max(moments) - min(moments)
        # A margin takes as many calls off the burst.
        ideal = (tasks - max(burst - rate * MARGIN, 1)) / rate
        rejected = sum(c["verdict"] == "rejected" for c in calls)
        return {
            "rate": rate,
            "burst": burst,
            "rate_kept": round(ideal / makespan, 4),
            "makespan_seconds": round(makespan, 3),
            "lost": tasks - len(made),
            "duplicated": sum(number - 1 for number in made.values()),
            "rejected_share": round(rejected / len(calls), 5),
            "limiter_calls_per_task": round(fleet.stats("limiter_calls") / tasks, 3),
            "broker_messages_per_task": round(1 + fleet.stats("broker_messages") / tasks, 3),
            "load": round(os.getloadavg()[0], 2),
        }


def _made(fleet: Fleet, ledger: Any, task: str, tasks: int) -> list[float]:
    """Have all tasks run by two workers; the moments of their calls, in seconds."""
    fleet.send(task, tasks)
    # Out of the workers' sight until they are up. The messages still name their queue.
    fleet.redis.rename("celery", "shelf")
    fleet.worker()
    fleet.worker()
    fleet.redis.rename("shelf", "celery")
    wait_until(lambda: fleet.drained() and fleet.parked() == 0, timeout=60 + tasks / 10)
    return [line["mono"] / 1e6 for line in read_lines(ledger) if line["event"] == "began"]


def bars(figures: Mapping[str, Any]) -> Mapping[str, bool]:
    """Tell of each promise, by run, whether the figures keep it."""
    verdicts: dict[str, bool] = {}
    for name, (_, _, most) in WAYS.items():
        for place in PLACES:
            run_ = figures[f"{name}, {place}"]
            where = f"{name}, {place}"
            verdicts |= {
                f"{where}: at least 0.99 of the rate": run_["rate_kept"] >= LEAST_RATE,
                f"{where}: nothing lost or duplicated": not (run_["lost"] or run_["duplicated"]),
                f"{where}: rejections at most 0.1 %": run_["rejected_share"] <= 0.001,
                f"{where}: at most {most} limiter calls a task": run_["limiter_calls_per_task"]
                <= most,
                f"{where}: at most 2.1 messages a task": run_["broker_messages_per_task"] <= 2.1,
            }
    return verdicts


def tables(record: Mapping[str, Any]) -> Iterable[Table]:
    """One row for each run."""
    alone, beside = (record[f"plain, {place}"]["calls_per_second"] for place in PLACES)
    title = f"{record['tasks']} calls; Celery alone makes {alone}/s, beside others {beside}/s"
    table = Table(title=title)
    runs = {name: value for name, value in record.items() if isinstance(value, dict)}
    runs = {name: value for name, value in runs.items() if "rate_kept" in value}
    for column in ("", *next(iter(runs.values()))):
        table.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for name, value in runs.items():
        table.add_row(name, *map(str, value.values()))
    yield table


if __name__ == "__main__":
    sizes = {"tasks": 2000, "rate": 0, "burst": 0}
    main(__doc__, sizes, measure, bars, quick={"tasks": 300}, tables=tables)
