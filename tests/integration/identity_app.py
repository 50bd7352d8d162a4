"""The Celery app of the tests of identity: several messages under one task id.

Each body writes one line to ``$LEDGER`` when it begins.
"""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

from celery import signals
from kombu.exceptions import OperationalError

from governor import GovernedTask, Governor, Limit, Upstream
from tests.integration.worker_app import worker_app

app = worker_app(
    "identity",
    governor_hold=0,
    governor_routes={"vendor.*": "fast"},
)
Governor(app)

fast = Upstream("fast", Limit("1000/s", burst=100))
slow = Upstream("slow", Limit("2/s"))


@signals.task_prerun.connect
def stand_still(**_: Any) -> None:
    """With ``$STAND_STILL``, a file to be made: the first worker that hands a task to one of its
    processes stands still, with that process, before the body begins."""
    try:
        with open(os.environ["STAND_STILL"], "x") as found:
            found.write(f"{os.getppid()} {os.getpid()}")
    except (KeyError, FileExistsError):
        return
    for pid in (os.getppid(), os.getpid()):
        os.kill(pid, signal.SIGSTOP)


def write(task: Any, **facts: Any) -> None:
    """One line of the ledger, written whole."""
    line = {"task": task.name, "id": task.request.id, **facts}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


@app.task(bind=True, base=GovernedTask, upstream=fast)
def add(self: Any, *numbers: int) -> int:
    write(self, key=self.idempotency_key)
    return sum(numbers)


@app.task(bind=True, base=GovernedTask, upstream=fast)
def outer(self: Any, *numbers: int, depth: int = 1) -> Any:
    """Is replaced ``depth`` times, the last time by :func:`add`."""
    write(self, key=self.idempotency_key)
    inner = add.s(*numbers) if depth == 1 else outer.s(*numbers, depth=depth - 1)
    return self.replace(inner)


@app.task(bind=True, base=GovernedTask, upstream=fast)
def outer_of(self: Any, numbers: list[int]) -> Any:
    write(self, key=self.idempotency_key)
    return self.replace(add.s(*numbers))


@app.task(bind=True, name="vendor.outer")
def vendored(self: Any, *numbers: int) -> Any:
    write(self)
    return self.replace(add.s(*numbers))


@app.task(bind=True, name="vendor.retries")
def retries(self: Any) -> None:
    """Asks to be retried after its call, while the broker takes nothing."""
    write(self)

    def refused() -> None:
        raise OperationalError("the broker is away")

    self.signature_from_request = lambda *_, **__: SimpleNamespace(apply_async=refused)
    self.retry()


@app.task(bind=True)
def send_twice(self: Any, task_id: str, number: int) -> None:
    """The same signature, with an id of its own, sent twice."""
    frozen = add.s(number)
    frozen.freeze(task_id)
    for _ in range(2):
        frozen.apply_async()


@app.task(bind=True, base=GovernedTask, upstream=fast)
def hang(self: Any) -> None:
    write(self)
    time.sleep(60)


@app.task(bind=True, base=GovernedTask, upstream=slow, idempotent=True)
def page(self: Any, left: int, seconds: float = 0.0) -> Any:
    """A page, and then those that follow it, under the same task id."""
    write(self, left=left)
    time.sleep(seconds)
    if left:
        return self.replace(page.s(left - 1))
    return "last page"
