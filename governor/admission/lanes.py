"""Lanes of parking lots, and the groups that workers release them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from governor.keys import digest, name_of
from governor.messages.header import Header
from governor.policy.decision import AnyCharge, LaneKey
from governor.policy.parking_values import Group, Lane
from governor.policy.plan import CallPlan
from governor.policy.upstream import UpstreamDeclaration

_SHOWN = 80
"""Characters of a tenant's name that are kept for people."""


def rank_of(priority: int, *, high_first: bool) -> int:
    """Convert a broker's priority to a rank, or a rank to a priority.

    Args:
        high_first: the broker's most urgent priority is the highest, as RabbitMQ's is; that of
            Redis is 0.
    """
    return max(0, min(255 - priority if high_first else priority, 255))


def group_of(plan: CallPlan, origin: str) -> Group:
    """Name the group of lanes of tasks with these limits from this queue."""
    return Group(_group_name(plan.shape, origin), plan.rules)


class Lanes:
    """Lanes by what their tasks have in common; each is made once.

    Args:
        shown: hides secrets in a tenant's name.
    """

    def __init__(self, shown: Callable[[str], str]) -> None:
        self._shown = shown
        self._group = lru_cache(maxsize=1_024)(_group_name)
        self._made = lru_cache(maxsize=16_384)(self._make)

    def of(
        self, plan: CallPlan, origin: str, buckets: Sequence[str], tenant: str | None, rank: int
    ) -> tuple[Lane, LaneKey]:
        """Find the lane, and its key, of a call that is charged to ``buckets``."""
        group = self._group(plan.shape, origin)
        weight = _weight(plan.upstream, tenant)
        return self._made(group, origin, tuple(buckets), tenant, rank, weight)

    def of_task(  # noqa: PLR0917 - what a message says
        self, plan: CallPlan, charges: Sequence[AnyCharge], header: Header, args: Sequence[Any],
        kwargs: Mapping[str, Any], origin: str, rank: int,
    ) -> tuple[Lane, LaneKey]:  # fmt: skip
        """Find the lane, and its key, of a task that was published with these arguments."""
        tenant = header.fair
        if tenant is None:
            tenant = plan.tenant(args, kwargs)
        return self.of(plan, origin, [charge.bucket for charge in charges], tenant, rank)

    def moved(
        self, lane: Lane, upstream: UpstreamDeclaration, *, rank: int | None, tenant: str | None
    ) -> Lane:
        """Find the lane of the same limit keys with another rank, or of another tenant."""
        if tenant is not None:
            tenant = name_of(tenant)
            weight = _weight(upstream, tenant)
            where = (lane.group, lane.origin, lane.buckets)
            lane, _ = self._make(*where, tenant, lane.rank, weight)
        return lane if rank is None else replace(lane, rank=rank)

    def _make(  # noqa: PLR0917 - what a lane is made of
        self, group: str, origin: str, buckets: tuple[str, ...], tenant: str | None, rank: int,
        weight: int,
    ) -> tuple[Lane, LaneKey]:  # fmt: skip
        # Without names the tenants are the values of per=.
        flow = digest(str(buckets) if tenant is None else tenant)
        shown = "" if tenant is None else self._shown(tenant)[:_SHOWN]
        lane = Lane(group, buckets, flow, rank, weight, shown, origin)
        return lane, LaneKey(group, lane.name)


def _group_name(shape: tuple[str, ...], origin: str) -> str:
    return digest(str((shape, origin)))


def _weight(upstream: UpstreamDeclaration, tenant: str | None) -> int:
    weights: Mapping[str, int] = upstream.weights
    return weights.get(tenant, 1) if tenant is not None and weights else 1
