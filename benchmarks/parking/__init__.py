"""Tasks that are parked in the store: what they take, how they get there and back.

A worker parks tasks that must wait longer than ``governor_hold``, and whoever has room releases
them when their limits allow it. Parts can be chosen by name:

    memory    a worker's memory and processor time while tasks wait
    redis     what a parked task takes in Redis
    parked    tasks parked a second by one worker, and what Celery alone takes in, for both brokers
    release   tasks a second of the release script, in few lanes and in many
    calls     limiter calls and messages for each parked task
    makespan  all tasks at a rate, against the ideal
    fair      small tenants beside a big one
    urgent    latency of urgent tasks while others wait
    order     inversions inside a lane
    peers     the same work as it is done with Celery

The broker is Redis. Tasks are parked from RabbitMQ too, which must be installed: it pushes
messages, where from Redis each is fetched.

    python -m benchmarks.parking memory release
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rich.table import Table

from benchmarks.fleet import BROKERS
from benchmarks.parking import beside, going, release, staying

SIZES = {
    "tasks": 100_000,
    "rate": 1_000,
    "steady_tasks": 10_000,
    "steady_rate": 200,
    "countdown_tasks": 20_000,
    "lot": 100_000,
    "urgent_calls": 200,
    "order_tasks": 2_000,
    "peer_tasks": 2_000,
    "peer_rate": 100,
}
QUICK = {
    "tasks": 5_000,
    "steady_tasks": 1_000,
    "countdown_tasks": 2_000,
    "lot": 20_000,
    "urgent_calls": 60,
    "order_tasks": 500,
    "peer_tasks": 500,
}

MEMORY_MB = 20.0
IDLE_SHARE = 0.01
REDIS_BYTES = 250.0
PARKED_PER_SECOND = 1_500.0
RELEASED_PER_SECOND = 30_000.0
LIMITER_CALLS = 2.0
MESSAGES = 2.0
MAKESPAN = 1.01
OF_PLAIN = 0.9
FAIR = 1.1


class _Runs:
    """Runs that several parts read; each is made once."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes

    @cached_property
    def parked(self) -> dict[str, Any]:
        return staying.parked(self.sizes["tasks"])

    @cached_property
    def fast(self) -> dict[str, Any]:
        return going.paced(self.sizes["tasks"], self.sizes["rate"])

    @cached_property
    def steady(self) -> dict[str, Any]:
        return going.paced(self.sizes["steady_tasks"], self.sizes["steady_rate"])


def _memory(runs: _Runs) -> dict[str, Any]:
    tasks = runs.sizes["tasks"]
    names = (
        "tasks", "rss_ready_mb", "rss_growth_mb", "rss_growth_after_warm_up_mb", "idle_cpu_share",
        "load",
    )  # fmt: skip
    return {
        **{name: runs.parked[name] for name in names},
        "countdown": staying.countdown(runs.sizes["countdown_tasks"], tasks),
    }


def _redis(runs: _Runs) -> dict[str, Any]:
    names = (
        "tasks", "message_bytes", "redis_bytes_per_task", "redis_bytes_beyond_message",
        "redis_bytes_in_broker_queue",
    )  # fmt: skip
    return {name: runs.parked[name] for name in names}


def _parked(runs: _Runs) -> dict[str, Any]:
    some = min(10_000, runs.sizes["tasks"])
    found: dict[str, Any] = {"tasks": some}
    for broker in BROKERS:
        found[broker] = {
            **staying.parked_from(broker, some),
            "celery_takes_and_drops": staying.taken(broker, min(2_000, some)),
        }
    return {**found, "load": os.getloadavg()[0]}


def _makespan(runs: _Runs) -> dict[str, Any]:
    some = min(10_000, runs.sizes["tasks"])
    return {
        "plain_per_second": round(staying.plain_rate(some), 1),
        "once_unpaused": going.unpaused(some),
        "fast": runs.fast,
        "steady": runs.steady,
    }


def _calls(runs: _Runs) -> dict[str, Any]:
    names = ("limiter_calls_per_task", "broker_messages_per_task", "finished", "parked")
    both = {"fast": runs.fast, "steady": runs.steady}
    return {speed: {name: run[name] for name in names} for speed, run in both.items()}


PARTS: dict[str, Callable[[_Runs], dict[str, Any]]] = {
    "memory": _memory,
    "redis": _redis,
    "parked": _parked,
    "release": lambda runs: release.release(runs.sizes["lot"]),
    "makespan": _makespan,
    "calls": _calls,
    "fair": lambda runs: going.fair(runs.sizes["tasks"]),
    "urgent": lambda runs: going.urgent(runs.sizes["tasks"], runs.sizes["urgent_calls"]),
    "order": lambda runs: going.order(runs.sizes["order_tasks"]),
    "peers": lambda runs: beside.beside(runs.sizes["peer_tasks"], runs.sizes["peer_rate"]),
}
"""Every part, in the order in which they run."""


def measure(parts: Sequence[str], **sizes: int) -> dict[str, Any]:
    """The parts that were chosen. One that fails says so, and the others run."""
    runs = _Runs(sizes)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, part in PARTS.items():
        if name in parts:
            print(f"parking: {name}", file=sys.stderr, flush=True)
            try:
                found[name] = part(runs)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
            print(json.dumps(found.get(name, failed.get(name))), file=sys.stderr, flush=True)
    return {**found, "failed": failed, "load_after": round(os.getloadavg()[0], 2)}


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    verdicts = {f"{name}: gives figures": False for name in figures["failed"]}
    if found := figures.get("memory"):
        verdicts[f"memory: at most {MEMORY_MB:g} MB more"] = found["rss_growth_mb"] <= MEMORY_MB
        verdicts["memory: idle below 1 % of a core"] = found["idle_cpu_share"] < IDLE_SHARE
    if found := figures.get("redis"):
        beyond = found["redis_bytes_beyond_message"]
        verdicts[f"redis: message and at most {REDIS_BYTES:g} B"] = beyond <= REDIS_BYTES
    if found := figures.get("parked"):
        most, broker = max((found[broker]["per_second"], broker) for broker in BROKERS)
        verdicts[f"parked: at least 1,500/s, from {broker}"] = most >= PARKED_PER_SECOND
    if found := figures.get("release"):
        few, *_ = found["lanes"].values()
        enough = few["script_per_second"] >= RELEASED_PER_SECOND
        verdicts["release: at least 30,000/s in few lanes"] = enough
    if found := figures.get("makespan"):
        for speed in ("fast", "steady"):
            run, plain = found[speed], found["plain_per_second"]
            ratio = run["makespan_ratio"]
            met = ratio is not None and ratio <= MAKESPAN
            met = met or run["tasks_per_second"] >= OF_PLAIN * plain
            verdicts[f"makespan: {run['rate']}/s at most 1.01, or 0.9 of plain Celery"] = met
    if found := figures.get("calls"):
        for speed, run in found.items():
            met = run["limiter_calls_per_task"] <= LIMITER_CALLS
            verdicts[f"calls: at most 2 limiter calls a task, {speed}"] = met
            met = run["broker_messages_per_task"] <= MESSAGES
            verdicts[f"calls: at most 2 messages a task, {speed}"] = met
    if found := figures.get("fair"):
        verdicts["fair: at most 1.1 of the fair share"] = found["last_to_fair_share"] <= FAIR
    if found := figures.get("urgent"):
        verdicts["urgent: p99 at most 2 reserved slots"] = found["p99_ms"] <= found["two_slots_ms"]
    return verdicts


def tables(record: Mapping[str, Any]) -> Iterable[Table]:
    """One table of figures, and one for each comparison."""
    table = Table(title=f"Parking, load {record['load_before']} to {record['load_after']}")
    for column in ("part", "figure", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name in PARTS:
        if name in record and name not in {"release", "peers"}:
            for number, (figure, value) in enumerate(_flat(record[name])):
                table.add_row("" if number else name, figure, value)
            table.add_section()
    for name, words in record["failed"].items():
        table.add_row(name, words, "–")
    yield table
    if found := record.get("release"):
        yield _nested("The release script", found["lanes"])
    if found := record.get("peers"):
        title = f"{found['tasks']} tasks at {found['rate']}/s, two workers of two places"
        yield _nested(title, found["ways"])


def _flat(found: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in found.items():
        words = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{words}: ")
        else:
            yield words, _shown(value)


def _nested(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in next(iter(rows.values())):
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(name, *map(_shown, row.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
