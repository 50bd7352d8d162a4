"""The Celery app of the kill loops: tasks of every kind, governed, or with ``$PLAIN`` Celery's own.

Each body appends a line to ``$LEDGER`` when it begins, and another one when it has succeeded.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import tenacity
from celery import Celery

from governor import Concurrency, GovernedTask, Governor, Limit, Retry, Upstream
from tests.faults.kill_ledger import KINDS, Kind

PLAIN = "PLAIN" in os.environ

app = Celery("kills")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True if PLAIN else None,
    task_ignore_result=True,
    worker_prefetch_multiplier=8,
    broker_connection_retry_on_startup=True,
    governor_redis_url=os.environ["LIMITER_URL"],
    governor_database_url=os.environ["DATABASE_URL"],
    governor_spill_dir=os.environ["SPILL_DIR"],
)
app.conf.update(json.loads(os.environ["CONF"]))

UPSTREAMS = {
    "api": Upstream("api", Limit("200/s", burst=20)),
    "crowd": Upstream("crowd", Limit("1000/s", burst=100), Concurrency(3)),
    "slow": Upstream("slow", Limit("8/s"), fair_by="tenant"),
}
AGAIN = Retry(on=ConnectionError, attempts=4, wait=tenacity.wait_fixed(0.2))

if not PLAIN:
    Governor(app)


def write(what: str, task: Any) -> None:
    """One line of the ledger, appended whole."""
    request = task.request
    line = {"what": what, "id": request.id, "attempt": request.retries, "at": time.time()}
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def declare(name: str, kind: Kind) -> None:
    """A task of this kind."""

    def body(self: Any, number: int, tenant: str, seconds: float) -> None:
        write("begun", self)
        time.sleep(seconds)
        if not PLAIN and (kind.fails or self.request.retries < kind.failures):
            raise (ValueError if kind.fails else ConnectionError)(f"number {number}")
        write("done", self)

    options: dict[str, Any] = {"bind": True, "name": name, "shared": False}
    if not PLAIN:
        options |= {
            "base": GovernedTask,
            "upstream": UPSTREAMS[kind.upstream],
            "idempotent": kind.idempotent,
        }
        if kind.failures:
            options["retry"] = AGAIN
    app.task(**options)(body)


for each, what in KINDS.items():
    declare(each, what)
