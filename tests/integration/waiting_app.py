"""The Celery app of the tests of what people do to parked tasks: tenants take turns."""

from __future__ import annotations

import json
import os
from typing import Any

from governor import GovernedTask, Governor, Limit, Upstream
from tests.integration.worker_app import worker_app

app = worker_app("waiting", backend=os.environ["LIMITER_URL"])
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
