"""One worker's share of an upstream's limits, for when it cannot ask the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from governor.policy.decision import AnyCharge, Charge


def share_of(charges: Sequence[AnyCharge], workers: int) -> tuple[AnyCharge, ...]:
    """The charges on a share of one in ``workers``: that much slower, that much smaller, and at
    least one call."""
    return tuple(_share(charge, workers) for charge in charges)


def _share(charge: AnyCharge, workers: int) -> AnyCharge:
    if isinstance(charge, Charge):
        interval = charge.interval * workers
        return replace(charge, interval=interval, capacity=max(charge.capacity, interval))
    return replace(charge, most=max(charge.most // workers, charge.cost))
