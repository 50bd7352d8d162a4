"""The Celery app of the tests of what is sent again: queues of a topic exchange, and tasks that are
tried again, wait or die.

Each body writes one line to ``$LEDGER`` when it begins.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tenacity
from kombu import Exchange, Queue

from governor import GovernedTask, Governor, Limit, Retry, Upstream
from tests.integration.worker_app import worker_app

NAME = "tests.integration.resend_app"
FEEDS = Exchange("feeds", type="topic")

app = worker_app(
    "resend",
    governor_hold=0,
    # A machine that stands still for a moment is no store that is away.
    governor_timeout=5,
    task_queues=(
        Queue("feed", FEEDS, routing_key="feed.#"),
        Queue("other", FEEDS, routing_key="other.#"),
    ),
    governor_routes={f"{NAME}.routed": "free"},
    task_default_queue="other",
    task_default_exchange="feeds",
    task_default_exchange_type="topic",
    task_default_routing_key="other.any",
)
Governor(app)

free = Upstream("free", Limit("1000/s", burst=100))
slow = Upstream("slow", Limit("1/s"), max_wait=float(os.environ.get("MAX_WAIT", "3600")))
deferred = Upstream("deferred", Limit("1/s"), parking="broker")
AGAIN = Retry(on=ConnectionError, attempts=3, wait=tenacity.wait_fixed(0.05))


def write(task: Any, *args: Any) -> None:
    """One line of the ledger, written whole."""
    request = task.request
    line = {
        "task": task.name, "id": request.id, "retries": request.retries, "args": args,
        "route": [request.delivery_info[key] for key in ("exchange", "routing_key")],
        "priority": request.delivery_info["priority"], "reply_to": request.reply_to,
        "headers": request.headers, "shown": [request.argsrepr, request.kwargsrepr],
        "deferrals": (request.headers or {}).get("governor", {}).get("deferrals", 0),
    }  # fmt: skip
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


def task(name: str, upstream: Upstream, **options: Any) -> Any:
    """Declare an idempotent task that is tried again in this way."""
    return app.task(
        bind=True, base=GovernedTask, upstream=upstream, idempotent=True, shared=False,
        name=f"{NAME}.{name}", **options,
    )  # fmt: skip


@task("flaky", free, retry=AGAIN)
def flaky(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    if self.request.retries < failures:
        raise ConnectionError("reset by peer")
    return account


@task("retries", free, max_retries=5)
def retries(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    if self.request.retries < failures:
        raise self.retry(countdown=0)
    return account


@task(
    "autoretried", free, max_retries=5, autoretry_for=(ConnectionError,),
    default_retry_delay=0, retry_backoff=False,
)  # fmt: skip
def autoretried(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    if self.request.retries < failures:
        raise ConnectionError("reset by peer")
    return account


@app.task(bind=True, name=f"{NAME}.routed", max_retries=5, shared=False)
def routed(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    if self.request.retries < failures:
        raise self.retry(countdown=0)
    return account


@task("parked", slow)
def parked(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    return account


@task("waits", deferred)
def waits(self: Any, account: str = "", failures: int = 0) -> str:
    write(self, account)
    return account


@task("needs", free)
def needs(self: Any, path: str) -> str:
    write(self, path)
    with open(path):
        return "done"
