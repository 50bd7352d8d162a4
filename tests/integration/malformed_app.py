"""The app of the workers that malformed messages are sent to: tasks that take any arguments."""

from __future__ import annotations

import json
import os
from typing import Any

from governor import GovernedTask, Governor, Limit, Upstream
from tests.integration.worker_app import worker_app

app = worker_app(
    "malformed",
    worker_prefetch_multiplier=4,
)
Governor(app)

RATE = os.environ.get("RATE", "10000/s")
BURST = int(os.environ.get("BURST", "1000"))
PARKING: Any = os.environ.get("PARKING", "store")
wide = Upstream(
    "wide", Limit(RATE, burst=BURST), Limit("9000/s", burst=1000, per="tenant"), fair_by="tenant",
    parking=PARKING,
)  # fmt: skip


def write(task: Any) -> None:
    line = {"task": task.name, "number": getattr(task.request, "number", None)}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line, default=str) + "\n")


@app.task(bind=True, base=GovernedTask, upstream=wide, idempotent=True)
def governed(self: Any, tenant: Any = None, *args: Any, **kwargs: Any) -> None:
    write(self)


@app.task(bind=True, base=GovernedTask, upstream=wide)
def governed_once(self: Any, tenant: Any = None, *args: Any, **kwargs: Any) -> None:
    write(self)


@app.task(bind=True)
def ungoverned(self: Any, *args: Any, **kwargs: Any) -> None:
    write(self)


class Once:
    """Argument that can be unpickled, and not pickled again for a process of the pool."""

    def __reduce__(self) -> Any:
        raise TypeError("only once")


class Unspeakable(Exception):
    """An exception whose own code ends whoever reads it."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@app.task(bind=True, base=GovernedTask, upstream=wide)
def unspeakable(self: Any, tenant: Any = None) -> None:
    raise Unspeakable


@app.task(bind=True, base=GovernedTask, upstream=wide)
def fails(self: Any, tenant: Any = None) -> None:
    raise ValueError("as others do")
