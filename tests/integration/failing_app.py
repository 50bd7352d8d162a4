"""The Celery app whose tasks fail in every way of :mod:`tests.kinds_of_failure`."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import tenacity

from governor import Breaker, GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from tests import kinds_of_failure as kinds
from tests.integration.worker_app import worker_app

app = worker_app("failing")
Governor(app)

free = Upstream("free", Limit("1000/s", burst=100))
shaky = Upstream(
    "shaky", Limit("1000/s", burst=100), breaker=Breaker(failures=3, of=3, open_for=60)
)
TWICE = Retry(on=Exception, attempts=2, wait=tenacity.wait_fixed(0.01))


def write(task: Any) -> None:
    line = {"task": task.name, "id": task.request.id, "retries": task.request.retries}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True, retry=TWICE)
def fails(self: Any, kind: str) -> None:
    write(self)
    getattr(kinds, kind)()


@app.task(bind=True, base=GovernedTask, upstream=shaky)
def shakes(self: Any) -> None:
    write(self)
    kinds.openai_500()


@app.task(bind=True, base=GovernedTask, upstream=free)
def no_such(self: Any, name: str) -> None:
    write(self)
    raise ValueError(f"no such customer {name}")


@app.task(bind=True, base=GovernedTask, upstream=free, idempotent=True, retry=TWICE)
def unencodable(self: Any) -> object:
    write(self)
    return object()


@app.task(bind=True, base=GovernedTask, upstream=free)
def refused_after_a_call(self: Any) -> None:
    write(self)
    with shaky.call():
        pass
    raise Throttled(retry_after=60)


@app.task(bind=True, base=GovernedTask, upstream=free, time_limit=1)
def hangs(self: Any) -> None:
    write(self)
    time.sleep(60)


@app.task(
    bind=True, base=GovernedTask, upstream=free, idempotent=True,
    autoretry_for=(kinds.NeedsKeyword,), retry_kwargs={"countdown": 0.01, "max_retries": 2},
)  # fmt: skip
def retried(self: Any) -> None:
    write(self)
    kinds.openai_500()
