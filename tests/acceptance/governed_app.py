"""The app of the governed acceptance tests: the integration tests' tasks, and one that shows
what a body sees of its message."""

from __future__ import annotations

from typing import Any

from governor import GovernedTask
from tests.integration.governed_app import api, app, write

__all__ = ["app", "show"]


@app.task(bind=True, base=GovernedTask, upstream=api, idempotent=True)
def show(self: Any, *values: Any) -> dict[str, Any]:
    request = self.request
    facts = {
        "id": request.id,
        "root": request.root_id,
        "retries": request.retries,
        "priority": (request.delivery_info or {}).get("priority"),
        "expires": bool(request.expires),
        "mine": getattr(request, "mine", None),
        "deferrals": request.governor.get("deferrals", 0),
        "key": self.idempotency_key,
        "values": values,
    }
    write(self, **{name: facts[name] for name in ("deferrals", "key")})
    return facts


@app.task(bind=True, base=GovernedTask, upstream=api, idempotent=True)
def add(self: Any, *values: int) -> int:
    """Sums its arguments, lists among them too, as the body of a chord gets."""
    write(self, deferrals=self.request.governor.get("deferrals", 0))
    return _total(values)


@app.task
def plain_add(*values: int) -> int:
    return _total(values)


def _total(values: Any) -> int:
    return sum(_total(v) if isinstance(v, list | tuple) else v for v in values)
