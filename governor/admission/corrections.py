"""Corrections of what was charged: what a call turned out to cost, and what responses say about an
upstream's quotas.

Nothing here fails a call that was made: while the store is away, corrections are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from governor.admission.limits_in_force import LimitsInForce
from governor.clock import SECOND, Clock
from governor.errors import StoreUnavailable
from governor.headers import dialects
from governor.log_lines import LOG
from governor.policy import cost as costs
from governor.policy import report_match
from governor.policy.adjustment import Adjustment
from governor.policy.decision import AnyCharge, QuotaCharge
from governor.policy.plan import CallPlan
from governor.ports import LimiterStore

_APART = SECOND // 2
"""Microseconds between two reports on one bucket that one process passes on; one that says that
nothing is left is passed on at once."""

_FRESH = 10 * SECOND
"""A process that asks for no admission reads so often whether the limits were changed."""

_MOST_REMEMBERED = 10_000


class Corrections:
    """The corrections that one process makes."""

    def __init__(self, store: LimiterStore, in_force: LimitsInForce, clock: Clock) -> None:
        self._store = store
        self._in_force = in_force
        self._clock = clock
        self._not_before: dict[tuple[str, str], int] = {}
        self._stale_at: dict[str, int] = {}
        self._away: set[str] = set()

    def settle(
        self, plan: CallPlan, charged: Sequence[AnyCharge], cost: int, before: int | None = None
    ) -> None:
        """Charge, or give back, the difference for a call that turned out to cost ``cost``.

        Args:
            charged: what it was charged, limit by limit.
            before: what it was corrected to already.

        Raises:
            DeclarationError: the cost is no number, or no limit of the plan counts it.
        """
        wanted = costs.corrections(self._now_in_force(plan), charged, cost, before)
        self._send(plan.upstream.name, wanted)

    def observe(self, plan: CallPlan, buckets: Sequence[str], response: Any) -> None:
        """Read the rate headers of a response, or of a mapping of headers.

        Args:
            buckets: of every limit the one that the call belongs to.
        """
        now = self._clock.wall()
        reports = dialects.read(response, now)
        if not reports:
            return
        limits = self._now_in_force(plan).limits
        meters = [
            report_match.Meter(declared, limit, bucket)
            for (_, declared), (_, limit), bucket in zip(plan.limits, limits, buckets, strict=True)
        ]
        upstream = plan.upstream.name
        said = report_match.read(meters, reports, now)
        self._send(upstream, [each.adjustment for each in said if self._is_due(upstream, each)])

    def _now_in_force(self, plan: CallPlan) -> CallPlan:
        upstream, now = plan.upstream.name, self._clock.monotonic()
        if now >= self._stale_at.get(upstream, 0):
            self._stale_at[upstream] = now + _FRESH
            try:
                self._in_force.refresh(upstream)
            except StoreUnavailable as exc:
                self._failed(upstream, exc)
        return self._in_force.plan(plan)

    def _is_due(self, upstream: str, said: report_match.Said) -> bool:
        now = self._clock.monotonic()
        bucket = upstream, said.adjustment.charge.bucket
        if now < self._not_before.get(bucket, 0) and not said.spent:
            return False
        if len(self._not_before) >= _MOST_REMEMBERED:
            self._not_before.clear()
        self._not_before[bucket] = now + _APART
        return True

    def _send(self, upstream: str, wanted: Sequence[Adjustment]) -> None:
        if not wanted:
            return
        wall = self._clock.wall()
        dated = [
            replace(each, charge=each.charge.dated(wall))
            if isinstance(each.charge, QuotaCharge)
            else each
            for each in wanted
        ]
        try:
            self._store.adjust(upstream, dated)
        except StoreUnavailable as exc:
            self._failed(upstream, exc)
        else:
            self._away.discard(upstream)

    def _failed(self, upstream: str, exc: StoreUnavailable) -> None:
        if upstream not in self._away:
            self._away.add(upstream)
            LOG.error("%s Corrections of upstream %s are lost meanwhile", exc, upstream)
