"""The Celery app that the tests' worker processes run: governed tasks of every kind.

Each body writes one line to ``$LEDGER``: the task's name, its id, its attempt, the moment.
The moment of a governed call is the one at which the governor looked at its clock and let the
body begin: a machine that is busy elsewhere may not get to the ledger before long after.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

import tenacity
from celery import signals

from governor import GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from governor.clock import SECOND, SystemClock
from tests.integration.worker_app import worker_app

app = worker_app(
    "governed",
    worker_prefetch_multiplier=4,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    governor_routes={"vendor.tasks.*": "api"},
)


class RememberingClock(SystemClock):
    """The machine's clock, which remembers for each thread when it was last looked at."""

    def __init__(self) -> None:
        self._last = threading.local()

    def monotonic(self) -> int:
        self._last.seen = super().monotonic()
        return self._last.seen

    def last(self) -> float:
        """Monotonic seconds at this thread's last look."""
        return self._last.seen / SECOND


clock = RememberingClock()
governor = Governor(app, clock=clock)

RATE = os.environ.get("RATE", "100/s")
BURST = int(os.environ.get("BURST", "1"))
PARKING: Any = os.environ.get("PARKING", "store")
MAX_WAIT = float(os.environ.get("MAX_WAIT", "3600"))

api = Upstream("api", Limit(RATE, burst=BURST), parking=PARKING, max_wait=MAX_WAIT)
free = Upstream("free", Limit("1000/s", burst=100), parking=PARKING)
AGAIN = Retry(on=ConnectionError, attempts=3, wait=tenacity.wait_fixed(0.05))


@signals.worker_ready.connect
def stop_once(sender: Any, **_: Any) -> None:
    """With ``$STOP_ONCE``, a folder to be made: the worker is told to stop when it has handed its
    first task to the pool, which has not sent it to a process yet."""
    process_task = sender.controller._process_task

    def process_and_stop(request: Any) -> None:
        process_task(request)
        if "STOP_ONCE" in os.environ and not os.path.exists(os.environ["STOP_ONCE"]):
            os.mkdir(os.environ["STOP_ONCE"])
            os.kill(os.getpid(), signal.SIGTERM)

    sender.controller._process_task = process_and_stop


def write(task: Any, **facts: Any) -> None:
    """One line of the ledger, written whole."""
    governed = getattr(task.run, "governed", False)
    line = {
        "task": task.name,
        "id": task.request.id,
        "retries": task.request.retries,
        "at": clock.last() if governed else time.monotonic(),
        **facts,
    }
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


@app.task(bind=True, base=GovernedTask, upstream=api, idempotent=True)
def call(self: Any, number: int = 0, seconds: float = 0.0) -> int:
    write(self, number=number)
    time.sleep(seconds)
    return number


@app.task(bind=True, base=GovernedTask, upstream=api)
def call_once(self: Any, number: int = 0, seconds: float = 0.0) -> int:
    write(self, number=number, key=self.idempotency_key)
    time.sleep(seconds)
    return number


@app.task(bind=True)
def ungoverned(self: Any, number: int = 0, seconds: float = 0.0) -> int:
    write(self, number=number)
    time.sleep(seconds)
    return number


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True, retry=AGAIN)
def flaky(self: Any, failures: int) -> str:
    write(self, key=self.idempotency_key)
    if self.request.retries < failures:
        raise ConnectionError("reset by peer")
    return "done"


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True, retry=AGAIN)
def wrong(self: Any, password: str = "") -> None:
    write(self)
    raise ValueError(f"no such thing, password={password}")


@app.task(bind=True, base=GovernedTask, upstream=free)
def fragile(self: Any) -> None:
    write(self)
    raise ConnectionError("reset by peer")


@app.task(bind=True, base=GovernedTask, upstream=free)
def dies(self: Any, how: str) -> None:
    write(self)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        raise MemoryError
    if how == "exit":
        raise SystemExit(3)
    if how == "hang":
        time.sleep(60)


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True, retry=AGAIN)
def dies_once(self: Any) -> str:
    write(self)
    if self.request.retries == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True)
def hangs_once(self: Any, marker: str) -> str:
    write(self)
    try:
        os.mkdir(marker)
    except FileExistsError:
        return "done"
    time.sleep(60)
    return "not killed"


@app.task(bind=True, base=GovernedTask, upstream=free)
def throttled_once(self: Any, marker: str, retry_after: float) -> str:
    write(self)
    try:
        os.mkdir(marker)
    except FileExistsError:
        return "done"
    raise Throttled(retry_after=retry_after)


@app.task(bind=True, base=GovernedTask, upstream=free)
def needs(self: Any, path: str) -> str:
    write(self, key=self.idempotency_key)
    with open(path):
        return "done"


@app.task(bind=True, name="vendor.tasks.sync")
def vendored(self: Any, number: int = 0) -> int:
    write(self, number=number)
    return number


@app.task
def collect(results: list[int]) -> list[int]:
    return sorted(results)
