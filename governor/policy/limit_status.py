"""Four numbers of a limit, for people: limit, remaining, retry_after, reset_after.

Absent numbers are ``None``, never ``-1``. As in throttled's rate limiter.
"""

from __future__ import annotations

from dataclasses import dataclass

from governor.policy import concurrency, gcra, quota, window
from governor.policy.admission import Bucket, Leases, UpstreamState
from governor.policy.decision import AnyCharge, Charge, LeaseCharge, QuotaCharge, WindowCharge


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit as it stands.

    Attributes:
        limit: the most that can be taken at once: the effective burst, the window's or quota's
            number, the leases.
        remaining: how much of it could be taken now.
        retry_after: microseconds until a call of the asked cost conforms; ``None`` when it does.
        reset_after: microseconds until all of it is there again; 0 when it is.
    """

    limit: int
    remaining: int
    retry_after: int | None
    reset_after: int


def numbers(charge: AnyCharge, state: UpstreamState, now: int) -> LimitStatus:
    """The numbers of the limit a charge is taken from, at store time ``now``."""
    meter = state.meters.get(charge.bucket)
    match charge:
        case Charge():
            bucket = meter if isinstance(meter, Bucket) else Bucket(state.since + charge.capacity)
            interval = state.share.interval(charge.interval)
            capacity = max(charge.capacity, interval)
            unit = max(interval // charge.cost, 1)
            level = max(bucket.tat - now, 0)
            at = gcra.earliest(bucket.tat, now, interval, capacity)
            return _numbers(capacity // unit, max(capacity - level, 0) // unit, at - now, level)
        case WindowCharge():
            log = meter if isinstance(meter, window.Log) else window.Log()
            shape = window.Shape.of(charge.most)
            used = window.used(log, now, shape, charge.span)
            at = window.earliest(log, now, charge.cost, shape, charge.span, state.since)
            reset = log.times[-1] + charge.span - now if log.times else 0
            return _numbers(charge.most, max(charge.most - used, 0), at - now, max(reset, 0))
        case QuotaCharge():
            period = meter if isinstance(meter, quota.Period) else quota.Period()
            current, _, ends = period.at(charge.bounds, now)
            at = quota.earliest(
                period, charge.bounds, now, now, charge.cost, charge.most, state.since
            )
            left = max(charge.most - current.used, 0)
            return _numbers(charge.most, left, at - now, ends - now if current.used else 0)
        case LeaseCharge():
            holders = meter.holders if isinstance(meter, Leases) else {}
            alive = [until for until in holders.values() if until > now]
            at = concurrency.earliest(holders, now, now, "", charge.most)
            left = max(charge.most - len(alive), 0)
            return _numbers(charge.most, left, at - now, max(alive, default=now) - now)


def _numbers(limit: int, remaining: int, retry_after: int, reset_after: int) -> LimitStatus:
    return LimitStatus(limit, remaining, retry_after or None, reset_after)
