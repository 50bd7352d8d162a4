"""The limits in force: what is declared, with what people have changed while the fleet runs.

The store gives every upstream a version that grows with each change. An admission says which
version its charges were made of; when that is no longer the one in force, the store says so,
charges nothing, and the changes are read once for this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from governor.errors import DeclarationError
from governor.log_lines import LOG
from governor.policy.decision import AnyCharge
from governor.policy.plan import CallPlan
from governor.ports import InForce, LimiterStore

PAUSED_KEY = "pause:"
"""Prefix of the target of a change that pauses one key; the bucket's name follows."""

_UNCHANGED = InForce(0, {})


class LimitsInForce:
    """The changes of each upstream, as far as this process knows them.

    Args:
        changed: called with an upstream and its changes when they are others than before.
    """

    def __init__(
        self,
        store: LimiterStore,
        changed: Callable[[str, InForce], object] = lambda _, __: None,
    ) -> None:
        self._store = store
        self._changed = changed
        self._found: dict[str, InForce] = {}
        self._plans: dict[tuple[str, str, bool], tuple[int, CallPlan]] = {}

    def version(self, upstream: str) -> int:
        """Return the version of an upstream's limits that is known here."""
        return self._found.get(upstream, _UNCHANGED).version

    def refresh(self, upstream: str) -> None:
        """Read the changes again.

        Raises:
            StoreUnavailable: no answer in time.
        """
        known = self.version(upstream)
        found = self._found[upstream] = self._store.in_force(upstream)
        if found.version != known:
            self._changed(upstream, found)

    def plan(self, plan: CallPlan) -> CallPlan:
        """Give a declared plan the numbers in force."""
        upstream = plan.upstream.name
        found = self._found.get(upstream, _UNCHANGED)
        if not found.values:
            return plan
        key = (upstream, plan.task, bool(plan.held_back))
        version, changed = self._plans.get(key, (0, plan))
        if version != found.version:
            changed = _changed(plan, numbers_of(found))
            self._plans[key] = found.version, changed
        return changed

    def not_before(self, upstream: str, charges: Sequence[AnyCharge]) -> int:
        """Find the store time before which a call with these charges must not go, because one of
        its keys is paused; 0 when none is."""
        values = self._found.get(upstream, _UNCHANGED).values
        if not values:
            return 0
        return max(
            (int(values.get(PAUSED_KEY + charge.bucket, 0)) for charge in charges), default=0
        )

    def paused(self, upstream: str) -> dict[str, int]:
        """Find the store time until which each of an upstream's paused keys is paused, by
        bucket."""
        values = self._found.get(upstream, _UNCHANGED).values
        return {
            target.removeprefix(PAUSED_KEY): int(value)
            for target, value in values.items()
            if target.startswith(PAUSED_KEY)
        }


def numbers_of(found: InForce) -> dict[str, Mapping[str, Any]]:
    """Read the changed numbers by bucket. What cannot be read is left out, and logged."""
    numbers: dict[str, Mapping[str, Any]] = {}
    for target, text in found.values.items():
        if target.startswith(PAUSED_KEY):
            continue
        try:
            numbers[target] = dict(json.loads(text))
        except (ValueError, TypeError):
            LOG.error("The numbers set for limit %s cannot be read: they have no effect", target)
    return numbers


def _changed(plan: CallPlan, numbers: Mapping[str, Mapping[str, Any]]) -> CallPlan:
    for bucket in numbers:
        try:
            plan = plan.changed({bucket: numbers[bucket]})
        except DeclarationError as exc:
            LOG.error("The numbers set for limit %s have no effect: %s", bucket, exc)
    return plan
