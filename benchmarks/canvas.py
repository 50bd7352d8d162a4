"""Chord, chain and group with every member deferred: are the results those of plain tasks?

python -m benchmarks.canvas --width 10
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import chain, chord, group
from celery.canvas import Signature

from benchmarks.fleet import Fleet, main, wait_until

RATE = 4


def measure(width: int) -> dict[str, Any]:
    """The same canvas of governed and of plain tasks."""
    with Fleet(rate=f"{RATE}/s", hold=0.0, burst=1, parking="broker") as fleet:
        fleet.worker()
        fleet.worker()
        wanted = results(fleet, "plain.add", width)
        # It takes the one call that needs no waiting.
        fleet.send("governed.mark", 1)
        wait_until(lambda: bool(fleet.ledger("mark")))
        found = results(fleet, "governed.add", width)
        calls = fleet.ledger("add")
        return {
            "tasks": len(calls),
            "never_deferred": sum(not call["deferrals"] for call in calls),
            "results": {name: found[name] == wanted[name] for name in wanted},
        }


def results(fleet: Fleet, task: str, width: int) -> dict[str, Any]:
    """The result of each shape; all are started before the first is waited for."""

    def add(*values: int) -> Signature:
        return fleet.app.tasks[task].s(*values)

    shapes = {
        "chord": chord([add(n) for n in range(width)], add()),
        "group": group([add(n, n) for n in range(width)]),
        "chain": chain(add(1), add(2), add(3), add(4)),
        "chain with a group": chain(add(1), group([add(2), add(3)]), add(4)),
    }
    started = {name: shape.apply_async() for name, shape in shapes.items()}
    return {name: result.get(timeout=120) for name, result in started.items()}


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    return {
        "the same results": all(figures["results"].values()),
        "every member deferred": figures["never_deferred"] == 0,
    }


if __name__ == "__main__":
    main(__doc__, {"width": 10}, measure, bars)
