"""Corrections of what was charged: a call that cost more or less than thought, and what the
upstream itself says is used.

What the upstream says only ever takes room away, and only where it differs by more than the
noise of calls on their way: its count is as old as its answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from governor.policy import gcra, window
from governor.policy import quota as quotas
from governor.policy.admission import Bucket, Meter
from governor.policy.decision import AnyCharge, Charge, QuotaCharge, WindowCharge


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One correction of one meter.

    Attributes:
        charge: names the meter; its cost (and interval) are those of one call.
        more: cost units to add; negative to give back.
        used: cost units in use according to the upstream, at least; ``None`` when it said nothing.
        tolerance: cost units by which its count may differ from ours.
        reset: microseconds from now when what it counts will have left, 0 when it did not say.
    """

    charge: AnyCharge
    more: int = 0
    used: int | None = None
    tolerance: int = 0
    reset: int = 0


def paced(charge: Charge) -> Adjustment:
    """Return the correction that leaves a bucket room for one call and no burst; charges made
    already stay.

    Args:
        charge: one call of cost 1.
    """
    return Adjustment(replace(charge, interval=charge.capacity - charge.interval), used=1)


def bucket(tat: int, adjustment: Adjustment, charge: Charge, now: int) -> int:
    """A leaky bucket's TAT after the correction."""
    if adjustment.more:
        level = charge.interval * abs(adjustment.more)
        tat = gcra.pour(tat, now, level) if adjustment.more > 0 else tat - level
    if adjustment.used is not None:
        said = now + charge.interval * adjustment.used
        if said - max(tat, now) > charge.interval * adjustment.tolerance:
            tat = said
    return tat


def log(log_: window.Log, adjustment: Adjustment, charge: WindowCharge, now: int) -> window.Log:
    """A window's log after the correction."""
    shape = window.Shape.of(charge.most)
    latest = log_.times[-1] if log_.times else 0
    if adjustment.more > 0:
        log_ = window.push(log_, max(latest, now), min(adjustment.more, charge.most), shape)
    elif adjustment.more < 0:
        log_ = window.pop(log_, -adjustment.more, shape)
    if adjustment.used is not None:
        said = min(adjustment.used, charge.most)
        missing = said - window.used(log_, now, shape, charge.span)
        if missing > adjustment.tolerance:
            latest = log_.times[-1] if log_.times else 0
            leaves = now + adjustment.reset - charge.span if adjustment.reset else now
            log_ = window.push(log_, max(latest, min(leaves, now)), missing, shape)
    return log_


def quota(
    period: quotas.Period, adjustment: Adjustment, charge: QuotaCharge, now: int
) -> quotas.Period:
    """A quota after the correction."""
    current, _, _ = period.at(charge.bounds, now)
    used = max(current.used + adjustment.more, 0)
    if adjustment.used is not None and adjustment.used - used > adjustment.tolerance:
        used = adjustment.used
    return replace(current, used=used)


def adjusted(meter: Meter | None, each: Adjustment, since: int, now: int) -> Meter:
    """A limit's meter after the correction; ``since``: when the store first saw the upstream."""
    match each.charge:
        case Charge(capacity=capacity):
            known = meter if isinstance(meter, Bucket) else Bucket(since + capacity)
            return replace(known, tat=bucket(known.tat, each, each.charge, now))
        case WindowCharge():
            kept = meter if isinstance(meter, window.Log) else window.Log()
            return log(kept, each, each.charge, now)
        case QuotaCharge():
            period = meter if isinstance(meter, quotas.Period) else quotas.Period()
            return quota(period, each, each.charge, now)
        case _:
            raise ValueError(each)
