"""An app whose bodies and handlers end in ways that Celery does not expect, and whose worker starts
bodies late on demand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from governor import Concurrency, GovernedTask, Governor, Limit, Throttled, Upstream
from tests.integration.worker_app import worker_app

app = worker_app("ends")
governor = Governor(app)
api = Upstream("api", Limit("1000/s", burst=100))
one = Upstream("one", Concurrency(1))
slow = Upstream("slow", Limit("100/s", burst=1))

RAISED: dict[str, BaseException] = {
    "KeyboardInterrupt": KeyboardInterrupt(),
    "CancelledError": asyncio.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "SystemExit": SystemExit(3),
}


def write(task: Any, **facts: Any) -> None:
    """One line of the ledger, written whole."""
    line = {"task": task.name, "id": task.request.id, "at": time.monotonic(), **facts}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


class Quarrelsome(GovernedTask):
    """Its handlers fail as its body does."""

    abstract = True

    def on_failure(self, *args: Any) -> None:
        raise RuntimeError("on_failure")

    def after_return(self, *args: Any) -> None:
        raise RuntimeError("after_return")


@app.task(bind=True, base=GovernedTask, upstream=one)
def raises(self: Any, what: str) -> None:
    write(self)
    raise RAISED[what]


@app.task(bind=True, base=Quarrelsome, upstream=one)
def quarrels(self: Any) -> None:
    write(self)
    raise ValueError("body")


@app.task(bind=True, base=GovernedTask, upstream=one)
def good(self: Any, number: int = 0) -> int:
    write(self, number=number)
    return number


@app.task(bind=True, base=GovernedTask, upstream=api)
def long(self: Any, seconds: float) -> str:
    write(self)
    time.sleep(seconds)
    return "done"


@app.task(bind=True, base=GovernedTask, upstream=api, idempotent=True)
def kills_its_process(self: Any) -> None:
    write(self)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, base=GovernedTask, upstream=slow, idempotent=True)
def throttled_at_first(self: Any, number: int, marker: str) -> int:
    """Told to wait until the file ``marker`` is there."""
    if not Path(marker).exists():
        time.sleep(0.02)
        raise Throttled(retry_after=0.01)
    write(self, number=number)
    return number
