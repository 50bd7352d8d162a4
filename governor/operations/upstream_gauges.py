"""The gauges of one upstream: its limits, its pause and breaker, and what is parked."""

from __future__ import annotations

import math
from collections.abc import Iterator

from governor.clock import SECOND, seconds
from governor.operations.limit_status import FOREVER, LimitView, UpstreamView
from governor.operations.parking_status import LotStatus
from governor.policy.breaker import STATES, state_of
from governor.policy.decision import Charge, WindowCharge
from governor.policy.parking_values import LotView
from governor.telemetry.exporter import Gauge, Sample

_UPSTREAM, _LIMIT = ("upstream",), ("upstream", "limit")

UPSTREAM_UP = Gauge(
    "governor_upstream_up",
    "1 if the upstream's state and parking lot were read, else 0.",
    _UPSTREAM,
)
MAX_WAIT = Gauge(
    "governor_max_wait_seconds", "Longest wait of the upstream's tasks, as declared.", _UPSTREAM
)
PAUSED = Gauge("governor_paused", "1 while the whole upstream is paused, else 0.", _UPSTREAM)
PAUSE_END = Gauge(
    "governor_pause_end_timestamp_seconds",
    "Unix time at which the upstream's pause ends, +Inf without an end; absent when not paused.",
    _UPSTREAM,
)
PAUSED_KEYS = Gauge("governor_paused_keys", "Values of per= arguments that are paused.", _UPSTREAM)
BREAKER = Gauge(
    "governor_breaker_state",
    "1 for the state the upstream's breaker is in, 0 for the others.",
    ("upstream", "state"),
)
ADAPTIVE_SHARE = Gauge(
    "governor_adaptive_share", "Share of the declared rates that is in force, 0 to 1.", _UPSTREAM
)
LIMIT_SIZE = Gauge(
    "governor_limit_size", "Cost units that can be taken at once; limits without per=.", _LIMIT
)
LIMIT_REMAINING = Gauge(
    "governor_limit_remaining", "Cost units that could be taken now; limits without per=.", _LIMIT
)
LIMIT_USED = Gauge(
    "governor_limit_used_ratio", "Used share of the limit, 0 to 1; limits without per=.", _LIMIT
)
LIMIT_RATE = Gauge(
    "governor_limit_rate",
    "Cost units per second that a leaky bucket or window allows, as in force.",
    _LIMIT,
)
PARKED = Gauge("governor_parked_tasks", "Tasks in the parking lot.", _UPSTREAM)
PARKED_READY = Gauge(
    "governor_parked_ready_tasks",
    "Parked tasks that no limit of their own (per=) and no pause of their key holds up.",
    _UPSTREAM,
)
PARKED_OLDEST = Gauge(
    "governor_parked_oldest_age_seconds",
    "Seconds since the longest waiting task was parked, 0 when none is.",
    _UPSTREAM,
)
PARKED_LANES = Gauge("governor_parked_lanes", "Lanes in which tasks are parked.", _UPSTREAM)
PARKED_TENANTS = Gauge(
    "governor_parked_tenants", "Fairness keys of which tasks are parked.", _UPSTREAM
)
RELEASED = Gauge(
    "governor_released_tasks", "Tasks released from the lot that have not ended.", _UPSTREAM
)
RELEASE_RATE = Gauge(
    "governor_release_rate",
    "Tasks released from the lot per second, over the last 10 to 20 s.",
    _UPSTREAM,
)
UPSTREAM_GAUGES: tuple[Gauge, ...] = (
    UPSTREAM_UP, MAX_WAIT, PAUSED, PAUSE_END, PAUSED_KEYS, BREAKER, ADAPTIVE_SHARE, LIMIT_SIZE,
    LIMIT_REMAINING, LIMIT_USED, LIMIT_RATE, PARKED, PARKED_READY, PARKED_OLDEST, PARKED_LANES,
    PARKED_TENANTS, RELEASED, RELEASE_RATE,
)  # fmt: skip
"""Every gauge of an upstream."""


def upstream_samples(found: LotStatus) -> Iterator[Sample]:
    """The gauges of one upstream; of what was not read, none."""
    view = found.upstream
    if view.now is not None:
        yield from _limit_samples(view)
    if found.lot is not None:
        yield from _lot_samples(found, found.lot)


def _limit_samples(view: UpstreamView) -> Iterator[Sample]:
    own = (view.name,)
    yield Sample(MAX_WAIT, own, seconds(view.max_wait))
    whole = [pause.until for pause in view.pauses if not pause.bucket]
    yield Sample(PAUSED, own, bool(whole))
    for until in whole:
        yield Sample(PAUSE_END, own, math.inf if until >= FOREVER else seconds(until))
    yield Sample(PAUSED_KEYS, own, len(view.pauses) - len(whole))
    if view.breaker is not None:
        state = state_of(view.breaker)
        for known in STATES:
            yield Sample(BREAKER, (*own, known), known == state)
    if view.share is not None:
        yield Sample(ADAPTIVE_SHARE, own, view.share)
    for each in view.limits:
        if each.numbers is None:
            continue
        labels = (*own, _label(each))
        limit, remaining = each.numbers.limit, each.numbers.remaining
        yield Sample(LIMIT_SIZE, labels, limit)
        yield Sample(LIMIT_REMAINING, labels, remaining)
        yield Sample(LIMIT_USED, labels, 1 - remaining / limit if limit else 0)
        rate = _rate(each, 1.0 if view.share is None else view.share)
        if rate is not None:
            yield Sample(LIMIT_RATE, labels, rate)


def _lot_samples(found: LotStatus, lot: LotView) -> Iterator[Sample]:
    own = (found.name,)
    ready = sum(lane.waiting for lane in lot.lanes if lane.blocked_until <= lot.now)
    yield Sample(PARKED, own, lot.waiting)
    yield Sample(PARKED_READY, own, ready)
    oldest = 0 if found.oldest is None else max(lot.now - found.oldest, 0)
    yield Sample(PARKED_OLDEST, own, seconds(oldest))
    yield Sample(PARKED_LANES, own, len(lot.lanes))
    yield Sample(PARKED_TENANTS, own, len({lane.lane.flow for lane in lot.lanes}))
    yield Sample(RELEASED, own, lot.out)
    yield Sample(RELEASE_RATE, own, found.rate or 0)


def _label(each: LimitView) -> str:
    """The limit's name; declarations refuse two of one name in an upstream, and in a task type."""
    name, task = each.declared.rule.name, each.declared.task
    return name if task is None else f"{name} of {task}"


def _rate(each: LimitView, share: float) -> float | None:
    """Cost units per second in the long run; ``None`` for quotas and concurrency."""
    rule = each.declared.rule.with_numbers(each.in_force)
    match rule.charge_on(each.declared.bucket, 1):
        case Charge(interval=interval):
            return share * SECOND / interval
        case WindowCharge(most=most, span=span):
            return most * SECOND / span
        case _:
            return None
