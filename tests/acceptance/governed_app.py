"""The app of the governed acceptance tests: the integration tests' tasks, and one that shows
what a body sees of its message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from governor import GovernedTask
from governor.clock import SECOND
from governor.policy.decision import Answer, Ask, Wait
from governor.policy.settlement import Settlement
from governor.stores.redis.store import RedisStore
from tests.integration.governed_app import api, app, governor, write

__all__ = ["app", "show"]


class EveryoneWaitsOnce(RedisStore):
    """The Redis store, which sends each new message of the upstream ``api`` away at first, whatever
    the limit allows: how busy the machine is does not decide who has to wait."""

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        admit = super().admit_many
        return [self._wait(ask) or admit([ask])[0] for ask in asks]

    def _wait(self, ask: Ask) -> Wait | None:
        if ask.upstream != api.name or ask.give_up_at is not None:
            return None
        now = self.settle(Settlement(ask.upstream)).now
        return Wait(now, now + SECOND // 2, "everyone waits once", ask.reserved)


if "EVERYONE_WAITS_ONCE" in os.environ:
    governor.store = EveryoneWaitsOnce(governor.settings.redis_url)


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
