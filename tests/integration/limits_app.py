"""The Celery app of the tests of limits in workers: an upstream of every kind.

Each body writes one line to ``$LEDGER`` when it begins and one when it ends.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from governor import Breaker, Concurrency, GovernedTask, Governor, Limit, Upstream, Window
from tests.integration.worker_app import worker_app

app = worker_app(
    "limits",
    governor_hold=30,
    worker_prefetch_multiplier=8,
)
Governor(app)

narrow = Upstream("narrow", Concurrency(2))
slow = Upstream("slow", Limit("10/min"))
counted = Upstream("counted", Window(5, per_seconds=2))
fragile = Upstream("fragile", breaker=Breaker(2, of=4, open_for=1.0, ramp=1))
opened = Upstream("opened", Limit("5/s"), store_down="open")
inner = Upstream("inner", Limit("10/s"))
metered = Upstream("metered", Limit("1/min", burst=60, margin=0), reserve=0.5, urgent=(9,))
steady = Upstream("steady", Limit("20/s"))
shared = Upstream("shared", Limit("20/s", burst=2), store_down="local")


def write(task: Any, event: str, **facts: Any) -> None:
    """One line of the ledger."""
    line = {"task": task.name, "id": task.request.id, "event": event, "at": time.monotonic()}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps({**line, **facts}) + "\n")


def governed(upstream: Upstream, name: str) -> Any:
    """A task that takes a while."""

    @app.task(
        bind=True, base=GovernedTask, upstream=upstream, idempotent=True, shared=False,
        name=f"tests.integration.limits_app.{name}",
    )  # fmt: skip
    def body(self: Any, number: int = 0, seconds: float = 0.0) -> int:
        write(self, "began", number=number)
        time.sleep(seconds)
        write(self, "ended", number=number)
        return number

    return body


in_flight = governed(narrow, "in_flight")
seldom = governed(slow, "seldom")
in_window = governed(counted, "in_window")
unlimited_when_away = governed(opened, "unlimited_when_away")
steadily = governed(steady, "steadily")
local_when_away = governed(shared, "local_when_away")


@app.task(bind=True, base=GovernedTask, upstream=fragile)
def may_fail(self: Any, sign: str) -> str:
    """Fails as long as the file ``sign`` is there."""
    write(self, "began")
    if Path(sign).exists():
        raise ConnectionError("reset by peer")
    return "done"


@app.task(bind=True, base=GovernedTask, upstream=narrow, idempotent=True)
def calls_inside(self: Any, number: int) -> int:
    """Makes a call of another upstream, and waits for none."""
    write(self, "began", number=number)
    with inner.call():
        write(self, "ended", number=number)
    return number


@app.task(bind=True, base=GovernedTask, upstream=metered, idempotent=True)
def costs(self: Any, cost: int) -> int:
    """Its call turns out to cost that much."""
    self.settle(cost=cost)
    return cost
