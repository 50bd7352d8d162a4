"""The rate that each limiter admits, against the rate it was told.

Four processes ask each limiter as fast as they can, one limiter after the other. Only a rate of a
few calls a second, which needs long to show, is told to all at once, four processes each, which
ask every 20 ms. What counts is the moment at which a process was told to go. The first seconds are
not part of a delivered rate: a burst is no rate. Celery's own ``rate_limit`` is measured on four
real workers, because it is a promise of each worker.

    python -m benchmarks.accuracy --seconds 3
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.figures import delivered, excess, whole_window
from benchmarks.fleet import main, wait_until
from benchmarks.ours import Ours
from benchmarks.peers import Peer, available
from benchmarks.peers import celery_rate_limit as celery
from benchmarks.processes import Barrier, together
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis


@dataclass(frozen=True, slots=True)
class Told:
    """Calls a second, and at once."""

    rate: float
    burst: int

    @property
    def window(self) -> int:
        """Seconds of the shortest whole window that can say this rate."""
        return whole_window(self.rate)[1]

    def __str__(self) -> str:
        return f"{self.rate:g}/s, burst {self.burst}"


TOLD = (Told(1.9, 2), Told(10, 5), Told(100, 20))

_PROCESSES = 4
_SLOW = 5
"""Calls a second below which a rate needs long to show."""

_BREATH = 0.02
"""Seconds between two questions while several limiters are asked at once."""


def measure(seconds: int) -> dict[str, Any]:
    """Delivered and excess, by what was told and by limiter."""
    others, skipped = available()
    kinds: list[type[Peer]] = [Ours, *others]
    rates = chosen(seconds)
    found: dict[str, dict[str, Any]] = {str(told): {} for told in rates}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="governor-bench-")))
        server = stack.enter_context(PrivateRedis(folder))
        for told in rates:
            for group in [kinds] if told.rate < _SLOW else [[kind] for kind in kinds]:
                found[str(told)] |= hammered(server.url, told, group, seconds)
        for told in rates:
            found[str(told)][celery.NAME] = workers(server.url, folder, told, seconds)
    return {
        "seconds": seconds,
        "processes": _PROCESSES,
        "load_after": round(os.getloadavg()[0], 2),
        "told": found,
        "settings": {kind.name: kind.setting for kind in kinds} | {celery.NAME: celery.SETTING},
        "skipped": skipped,
    }


def chosen(seconds: int) -> list[Told]:
    """The rates that are told in a run of so many seconds: one whose window is beyond four times
    that takes too long to show."""
    return [told for told in TOLD if told.window <= 4 * seconds]


def span(told: Told, seconds: int) -> tuple[float, float]:
    """Seconds to leave out, and seconds to count: whole windows of those who count in windows."""
    count = float(told.window * max(1, seconds // told.window))
    # A window that opens again exactly on time must not fall on the edge.
    return told.window - 0.25, count


def hammered(
    url: str, told: Told, kinds: list[type[Peer]], seconds: int
) -> dict[str, dict[str, float]]:
    """Ask from all processes; the figures of each limiter."""
    skip, count = span(told, seconds)

    def work(number: int, barrier: Barrier) -> tuple[str, int, list[float]]:
        peer = kinds[number % len(kinds)]()
        peer.setup(url, told.rate, told.burst, f"{told.rate:g} {peer.name}".replace(" ", "-"))
        moments: list[float] = []
        barrier.wait(60)
        deadline = time.monotonic() + skip + count + 0.5
        while time.monotonic() < deadline:
            if peer.try_acquire():
                moments.append(time.monotonic())
            if len(kinds) > 1:
                time.sleep(_BREATH)
        return peer.name, peer.burst, moments

    everyone = together(_PROCESSES * len(kinds), work, timeout=60 + skip + count)
    figures = {}
    for kind in kinds:
        answers = [(burst, found) for name, burst, found in everyone if name == kind.name]
        moments = [moment for _, found in answers for moment in found]
        figures[kind.name] = judged(moments, told, answers[0][0], skip, count)
    return figures


def judged(
    moments: list[float], told: Told, burst: int, skip: float, count: float
) -> dict[str, float]:
    """The figures of one limiter.

    Args:
        burst: what it lets through at once by its own terms.
    """
    if not moments:
        return {"calls": 0, "delivered": 0.0, "excess": 0.0, "excess_own": 0.0}
    return {
        "calls": len(moments),
        "delivered": round(delivered(moments, rate=told.rate, skip=skip, seconds=count), 3),
        "excess": round(excess(moments, burst=told.burst, rate=told.rate), 2),
        "excess_own": round(excess(moments, burst=burst, rate=told.rate), 2),
    }


def workers(url: str, folder: Path, told: Told, seconds: int) -> dict[str, float]:
    """Four workers with a task type of this ``rate_limit``."""
    skip, count = 1.0, float(max(seconds, 2))
    ledger = folder / f"celery-{told.rate:g}"
    settings = celery.Settings(url, told.rate, str(ledger))
    total = int(_PROCESSES * (told.rate * (skip + count + 2) + celery.PREFETCHED))
    with ExitStack() as stack:
        for number in range(_PROCESSES):
            log = folder / f"celery-{told.rate:g}-{number}.log"
            command = [
                sys.executable,
                "-m",
                "celery",
                "-A",
                celery.__name__,
                "worker",
                "-P",
                "solo",
            ]
            command += [
                "-c",
                "4",
                "-Q",
                settings.queue,
                "-n",
                f"bench{number}@localhost",
                "-l",
                "INFO",
            ]
            command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            environment = {**os.environ, **settings.environment()}
            stack.enter_context(ChildProcess(command, log=log, env=environment))
        for number in range(_PROCESSES):
            log = folder / f"celery-{told.rate:g}-{number}.log"
            wait_until(lambda log=log: " ready." in log.read_text(errors="replace"), log)
        celery.publish(settings, total)
        wait_until(lambda: bool(celery.moments(ledger)))
        time.sleep(skip + count + 0.5)
        return judged(celery.moments(ledger), told, 1, skip, count)


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    verdicts = {}
    for told in chosen(figures["seconds"]):
        ours = figures["told"][str(told)][Ours.name]
        _, count = span(told, figures["seconds"])
        # One call more or less is in the seconds counted.
        slack = max(0.01, 1.01 / (told.rate * count))
        verdicts[f"{told}: delivers it"] = abs(ours["delivered"] - 1) <= slack
        verdicts[f"{told}: never more"] = ours["excess"] <= 0
    return verdicts


def tables(record: Mapping[str, Any]) -> Iterable[Table]:
    """Two figures for each told rate."""
    told = record["told"]
    table = Table(
        title="Delivered / told; then the most calls over burst + rate × W in any window W, with "
        f"the burst told, and with its own; load {record['load_before']} to {record['load_after']}"
    )
    table.add_column("")
    for name in told:
        table.add_column(name, justify="right")
    rows: dict[str, list[str]] = defaultdict(list)
    for found in told.values():
        for kind, one in found.items():
            rows[kind].append(
                f"{one['delivered']:.3f}   {one['excess']:+.1f}   {one['excess_own']:+.1f}"
            )
    for kind, cells in rows.items():
        table.add_row(kind, *cells)
    yield table
    table = Table(title="How each is set up")
    for name in ("", "setting"):
        table.add_column(name)
    for kind, setting in record["settings"].items():
        table.add_row(kind, setting)
    for sentence in record["skipped"]:
        table.add_row("", sentence)
    yield table


if __name__ == "__main__":
    main(__doc__, {"seconds": 3}, measure, bars, quick={"seconds": 1}, tables=tables)
