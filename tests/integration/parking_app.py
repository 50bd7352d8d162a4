"""The Celery app of the tests of parking: upstreams whose tasks wait long.

Each body writes one line to ``$LEDGER`` when it begins.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from governor import Concurrency, GovernedTask, Governor, Limit, Upstream
from tests.integration.worker_app import worker_app

app = worker_app(
    "parking",
    governor_hold=0,
    worker_prefetch_multiplier=8,
)
Governor(app)

steady = Upstream("steady", Limit("20/s"))
tenants = Upstream("tenants", Limit("50/s"), fair_by="account", weights={"heavy": 3})
hourly = Upstream("hourly", Limit("1/h"), max_wait=86_400)
brief = Upstream("brief", Limit("1/min"), max_wait=2)
reserved = Upstream("reserved", Limit("20/s"), reserve=0.25, urgent=(9,))
deferred = Upstream("deferred", Limit("1/10s"), parking="broker")
busy = Upstream("busy", Limit("1000/s", burst=100), Concurrency(2, per="account"))


def governed(upstream: Upstream, *, idempotent: bool = True) -> Any:
    """A task that takes a while."""
    name = upstream.name if idempotent else f"{upstream.name}_once"

    @app.task(
        bind=True, base=GovernedTask, upstream=upstream, idempotent=idempotent, shared=False,
        name=f"tests.integration.parking_app.{name}",
    )  # fmt: skip
    def body(self: Any, number: int = 0, account: str = "", seconds: float = 0.0) -> int:
        line = {
            "task": self.name, "id": self.request.id, "number": number, "account": account,
            "at": time.monotonic(),
            "route": [self.request.delivery_info[key] for key in ("exchange", "routing_key")],
            # A message of a producer without a governor has no header until it waited.
            "deferrals": (getattr(self.request, "governor", None) or {}).get("deferrals", 0),
        }  # fmt: skip
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        time.sleep(seconds)
        return number

    return body


@app.task(name="tests.integration.parking_app.total", shared=False)
def total(numbers: list[int]) -> int:
    """The body of a chord."""
    return sum(numbers)


shifting = Upstream("shifting", Limit(os.environ.get("SHIFTING", "1/h"), burst=1))


for each in (shifting, steady, tenants, hourly, brief, reserved, deferred, busy):
    governed(each)
governed(steady, idempotent=False)
