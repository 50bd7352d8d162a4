"""The Celery app of the tests of what people do to parked tasks: tenants take turns."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream

app = Celery("waiting", backend=os.environ["LIMITER_URL"])
app.conf.update(
    governor_redis_url=os.environ["LIMITER_URL"],
    governor_database_url=os.environ["DATABASE_URL"],
    governor_spill_dir=os.environ["SPILL_DIR"],
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ.get("CONF", "{}")))
Governor(app)

shop = Upstream("shop", Limit("5/s"), fair_by="account", weights={"big": 3})


@app.task(bind=True, base=GovernedTask, upstream=shop, idempotent=True)
def order(self: Any, account: str, number: int = 0) -> int:
    line = {"task": self.name, "id": self.request.id}
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps(line) + "\n")
    return number


@app.task
def collect(results: list[int]) -> list[int]:
    return sorted(results)
