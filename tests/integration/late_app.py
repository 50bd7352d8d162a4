"""The Celery app of the tests of late starts: before each body a handler of ``task_prerun`` takes
``$PRERUN`` seconds.

Each body writes one line to ``$LEDGER``.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import signals

from governor import GovernedTask, Governor, Limit, Upstream
from tests.integration.worker_app import worker_app

app = worker_app("late")
Governor(app)

api = Upstream("api", Limit(os.environ.get("RATE", "10/s")), max_wait=60)


@signals.task_prerun.connect
def prerun(**_: Any) -> None:
    """Takes a while, as a handler does that opens a connection."""
    time.sleep(float(os.environ.get("PRERUN", "0")))


def write(task: Any) -> None:
    """One line of the ledger."""
    line = {"task": task.name, "id": task.request.id, "at": time.monotonic()}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


@app.task(bind=True, base=GovernedTask, upstream=api, idempotent=True, ignore_result=True)
def call(self: Any, *_: Any, **__: Any) -> None:
    """May be called twice."""
    write(self)


@app.task(bind=True, base=GovernedTask, upstream=api, ignore_result=True)
def charge(self: Any, *_: Any, **__: Any) -> None:
    """May not be called twice."""
    write(self)


@app.task(bind=True, ignore_result=True, acks_late=True)
def plain(self: Any, *_: Any, **__: Any) -> None:
    """Has no upstream."""
    write(self)
