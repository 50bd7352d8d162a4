"""The demo's scenario: the tasks it publishes, and the stand-in upstream they meet.

The mixed scenario has the quotas the real APIs publish, unscaled:

* Stripe: 25 requests a second in a sandbox. https://docs.stripe.com/rate-limits
* GitHub: 900 points a minute for the REST API, and 80 content-creating requests a minute.
  https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
* Shopify: a bucket of 40 requests per store that leaks 2 a second.
  https://shopify.dev/docs/api/admin-rest/usage/rate-limits
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from governor.policy.limits import Limit

SEED = 1

CHARGE = "demo.stripe.create_charge"
PAYOUT = "demo.stripe.send_payout"
SYNC = "demo.github.sync_issues"
COMMENT = "demo.github.create_comment"
INVENTORY = "demo.shopify.update_inventory"
UNIFORM = "demo.api.call"

# Of 1,000 tasks Stripe and GitHub are kept busy for about 20 s.
_SHARES = {CHARGE: 460, PAYOUT: 100, SYNC: 335, COMMENT: 25, INVENTORY: 80}

# Tenants are of very different size, as they are.
_TENANTS = {"acme": 60, "globex": 25, "initech": 12, "hooli": 3}

_FAULTS = {"transient_share": 0.03, "unprovoked_share": 0.003, "fast_ms": (2, 5)}

MIXED_APIS: Sequence[Mapping[str, Any]] = (
    {
        "name": "stripe",
        "quotas": [{"kind": "bucket", "rate": 25, "burst": 25}],
        "slow_share": 0.1,
        "slow_ms": (50, 300),
        "refuses": {"field": "card", "value": "declined", "status": 402},
        **_FAULTS,
    },
    {
        "name": "github",
        "quotas": [
            {"kind": "sliding", "count": 900, "seconds": 60},
            {"kind": "sliding", "count": 80, "seconds": 60, "path": "comments"},
        ],
        "slow_share": 0.2,
        "slow_ms": (50, 250),
        "refuses": {"field": "repo", "value": "acme/deleted", "status": 404},
        **_FAULTS,
    },
    {
        "name": "shopify",
        "quotas": [{"kind": "bucket", "rate": 2, "burst": 40, "per_account": True}],
        "refuses": {"field": "sku", "value": "retired", "status": 422},
        **_FAULTS,
    },
)


def uniform_apis(rate: float, burst: int) -> Sequence[Mapping[str, Any]]:
    """One API of ``rate`` calls a second that never fails by itself."""
    quota = {"kind": "bucket", "rate": rate, "burst": burst}
    return ({"name": "api", "quotas": [quota], "fast_ms": (2, 5)},)


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task to publish."""

    task_id: str
    task: str
    upstream: str
    kwargs: Mapping[str, Any]


def plan_mixed(count: int, *, with_crash: bool) -> list[PlannedTask]:
    """``count`` tasks of all types for all tenants, in one shuffled order.

    Args:
        with_crash: one payout kills its own pool process in the middle of its call.
    """
    dice = random.Random(SEED)  # noqa: S311 - a scenario, not a secret
    tenants, weights = list(_TENANTS), list(_TENANTS.values())
    kinds = _shares(count)
    dice.shuffle(kinds)
    ids = _task_ids(count)
    planned = []
    for number, (kind, task_id) in enumerate(zip(kinds, ids, strict=True)):
        (tenant,) = dice.choices(tenants, weights)
        planned.append(_planned(kind, task_id, tenant, number, bad=dice.random() < 0.02))
    if with_crash:
        payouts = [index for index, task in enumerate(planned) if task.task == PAYOUT]
        if payouts:
            index = payouts[len(payouts) // 3]
            chosen = planned[index]
            planned[index] = PlannedTask(
                chosen.task_id, chosen.task, chosen.upstream, {**chosen.kwargs, "dies": True}
            )
    return planned


def plan_uniform(count: int) -> list[PlannedTask]:
    """``count`` equal fast tasks of one upstream."""
    return [
        PlannedTask(task_id, UNIFORM, "api", {"number": number})
        for number, task_id in enumerate(_task_ids(count))
    ]


def run_of(task_id: str) -> str:
    """The part of a task id that all tasks of one run share."""
    return task_id.rpartition("-")[0]


def ideal_micros(planned: Iterable[PlannedTask], limits: Mapping[str, Sequence[Limit]]) -> int:
    """Microseconds from the first call to the last if every limit is used to the full.

    A bucket that must pass n calls lets its burst through at once, and the rest at its rate.
    Calls made again after a failure are not foreseen.

    Args:
        limits: of each task type, its upstream's and its own.
    """
    counts: Counter[tuple[Limit, object]] = Counter()
    for task in planned:
        for limit in limits[task.task]:
            counts[limit, task.kwargs[limit.per] if limit.per else None] += 1
    return max(
        (limit.rate.interval(max(0, n - limit.burst)) for (limit, _), n in counts.items()),
        default=0,
    )


def _planned(kind: str, task_id: str, tenant: str, number: int, *, bad: bool) -> PlannedTask:
    kwargs: dict[str, Any]
    match kind:
        case "demo.stripe.create_charge":
            card = "declined" if bad else "accepted"
            kwargs = {"account": tenant, "amount": 100 + number, "card": card}
        case "demo.stripe.send_payout":
            kwargs = {"account": tenant, "amount": 100 + number}
        case "demo.github.sync_issues":
            kwargs = {"repo": "acme/deleted" if bad else f"{tenant}/site", "page": number}
        case "demo.github.create_comment":
            kwargs = {"repo": f"{tenant}/site", "text": f"Deployed build {number}"}
        case _:
            sku = "retired" if bad else f"sku-{number}"
            kwargs = {"shop": tenant, "sku": sku, "quantity": number % 50}
    return PlannedTask(task_id, kind, kind.split(".")[1], kwargs)


def _shares(count: int) -> list[str]:
    """``count`` task names in the shares above; what rounding leaves goes to the largest."""
    total = sum(_SHARES.values())
    kinds = [name for name, share in _SHARES.items() for _ in range(count * share // total)]
    return kinds + [CHARGE] * (count - len(kinds))


def _task_ids(count: int) -> list[str]:
    """UUIDs: a random part for the run, then the task's number, which the faults depend on."""
    run = str(uuid.uuid4()).rpartition("-")[0]
    return [f"{run}-{number:012d}" for number in range(count)]
