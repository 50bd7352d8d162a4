"""Changes of limits while the fleet runs, each with its person and reason.

Each change is checked against the declaration first. Written to the store, it takes effect with
the next decision of every worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from governor.admission.limits_in_force import PAUSED_KEY, numbers_of
from governor.clock import SECOND
from governor.errors import DeclarationError, NothingMatched
from governor.operations.limit_status import (
    FOREVER,
    Declared,
    Key,
    LimitStatusReader,
    Pause,
    pauses,
    said_breaker,
    said_pause,
    when,
)
from governor.policy.adaptive import WHOLE, Share
from governor.policy.adjustment import Adjustment, paced
from governor.policy.breaker import written
from governor.policy.decision import Charge
from governor.policy.plan import CallPlan
from governor.ports import Change, LimiterStore


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference that a change makes."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The result of a command, done or only proposed.

    Attributes:
        notes: what a person should know about it.
        changes: what is written to the store.
        adjustments: what is written before, of meters.
    """

    upstream: str
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()


class LimitChanges:
    """Changes of limits: made ready, for a person to see what they do, and then written.

    Every method raises :class:`StoreUnavailable` when the store does not answer.

    Args:
        standing: of the same store.
        by: who makes the changes.
    """

    def __init__(self, store: LimiterStore, standing: LimitStatusReader, by: str) -> None:
        self._store = store
        self._standing = standing
        self._by = by

    def set(self, upstream: str, limit: str, given: Mapping[str, Any], why: str) -> LimitsChanged:
        """Other numbers for one limit; :meth:`apply` writes them.

        Raises:
            NothingMatched: there is no such upstream or limit.
            DeclarationError: they are no numbers of that limit, or the limit's name is not unique.
        """
        found = self._find(upstream, limit)
        if not given:
            known = " or ".join(f"--{field}" for field in found.rule.numbers())
            raise DeclarationError("limit", "no number is given", f"Give {known}")
        changes = numbers_of(self._store.in_force(upstream))
        before = found.changed(changes)
        after = found.rule.with_numbers({**changes.get(found.bucket, {}), **given})
        values = {**changes.get(found.bucket, {}), **{f: after.numbers()[f] for f in given}}
        notes = []
        if not callable(after.cost) and after.cost > after.most:
            notes.append(f"A call costs {after.cost} and will take all of it")
        return LimitsChanged(
            upstream,
            _differences(
                self._standing.shown(upstream, found.bucket), before.numbers(), after.numbers()
            ),
            (Change(upstream, "set", found.bucket, json.dumps(values), self._by, why),),
            tuple(notes),
        )

    def reset(self, upstream: str, limit: str | None, why: str) -> LimitsChanged:
        """The declared numbers again: of one limit, or of all; then the breaker is closed, the
        rates are whole, and no key is paused, too.

        Raises:
            NothingMatched: there is no such upstream or limit, or it is as declared.
            DeclarationError: the limit's name is not unique.
        """
        if limit is not None:
            found = self._find(upstream, limit)
            wanted, target = [found], found.bucket
        else:
            wanted, target = [*self._standing.limits(upstream)], ""
        look = self._store.look(upstream, ())
        changes = numbers_of(look.in_force)
        differences = [
            difference
            for each in wanted
            for difference in _differences(
                self._standing.shown(upstream, each.bucket),
                each.changed(changes).numbers(),
                each.rule.numbers(),
            )
        ]
        if limit is None:
            if written(look.state.breaker):
                differences.append(
                    Difference("breaker", said_breaker(look.state.breaker, look.now), "closed")
                )
            if look.state.share != Share():
                share = f"{look.state.share.share / WHOLE:.0%} of the declared rates"
                differences.append(Difference("adaptive", share, "all of them"))
            differences += [
                Difference(
                    self._standing.shown(upstream, pause.bucket), said_pause(pause), "not paused"
                )
                for pause in pauses(look)
                if pause.bucket
            ]
        touched = bool(differences or look.in_force.values)
        if not touched or (limit is not None and target not in look.in_force.values):
            raise NothingMatched(f"{limit or upstream} is as declared: there is nothing to reset")
        return LimitsChanged(
            upstream, tuple(differences), (Change(upstream, "reset", target, "", self._by, why),)
        )

    def pause(
        self, upstream: str, key: Key | None, span: int | None, until: int | None, why: str
    ) -> LimitsChanged:
        """Let no call of the upstream, or of this key, be made until then.

        Args:
            span: microseconds from now; with neither, the pause has no end.
            until: microseconds since the epoch.

        Raises:
            NothingMatched: there is no such upstream.
            DeclarationError: the end is over already, or no limit has such a key.
        """
        declared = self._standing.upstream(upstream)
        buckets = self._buckets(upstream, key)
        look = self._store.look(upstream, ())
        end = until if until is not None else FOREVER if span is None else look.now + span
        end = min(end, FOREVER)
        if end <= look.now:
            raise DeclarationError("until", f"{when(end)} is over", "Give a later time")
        before = {pause.bucket: pause for pause in pauses(look)}
        # Every call takes from every limit of its upstream: then one bucket of the key is enough.
        shared = [bucket for limit, bucket in buckets.items() if limit.task is None]
        targets = shared[:1] or [*buckets.values()] or [""]
        notes = []
        if end - look.now > declared.max_wait:
            notes.append(
                f"Tasks wait at most {declared.max_wait / SECOND:g} s (max_wait): what cannot run "
                "before becomes a dead letter (deferral_budget_exhausted)"
            )
        after = Pause(end, None)
        return LimitsChanged(
            upstream,
            tuple(_paused(upstream, key, before.get(each), after) for each in targets),
            tuple(self._change(upstream, "pause", each, str(end), why) for each in targets),
            tuple(notes),
        )

    def resume(self, upstream: str, key: Key | None, why: str) -> LimitsChanged:
        """The end of a pause, also of one that the upstream asked for. Its leaky buckets begin
        without a burst: those that everybody shares, or those of the key. Rates that adapt begin
        at their floor, and grow from there.

        Raises:
            NothingMatched: there is no such upstream, or it is not paused.
            DeclarationError: no limit has such a key.
        """
        rates = self._standing.upstream(upstream).adaptive
        begins = "" if rates is None else str(rates.floor)
        keyed = self._buckets(upstream, key)
        buckets = [*keyed.values()] or [""]
        look = self._store.look(upstream, ())
        found = [p for p in pauses(look) if p.bucket in buckets]
        if not found:
            shown = "" if key is None else f" for {key[0]}={key[1]}"
            raise NothingMatched(f"{upstream} is not paused{shown}")
        return LimitsChanged(
            upstream,
            tuple(_paused(upstream, key, pause, None) for pause in found),
            tuple(
                self._change(upstream, "resume", p.bucket, "" if p.bucket else begins, why)
                for p in found
            ),
            adjustments=self._paced(upstream, keyed, numbers_of(look.in_force)),
        )

    def _paced(
        self,
        upstream: str,
        keyed: Mapping[Declared, str],
        changes: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Adjustment, ...]:
        """Return what takes the burst out of the leaky buckets of a key; without a key, out of the
        shared ones."""
        declared = self._standing.limits(upstream)
        limits = keyed or {each: each.bucket for each in declared if each.rule.per is None}
        rules = tuple((bucket, each.changed(changes)) for each, bucket in limits.items())
        plan = CallPlan("", self._standing.upstream(upstream), rules, None).leaving_reserve()
        charges = (rule.charge_on(bucket, 1) for bucket, rule in plan.rules)
        return tuple(paced(charge) for charge in charges if isinstance(charge, Charge))

    def _change(
        self, upstream: str, what: Literal["pause", "resume"], bucket: str, value: str, why: str
    ) -> Change:
        target = PAUSED_KEY + bucket if bucket else ""
        return Change(upstream, what, target, value, self._by, why)

    def apply(self, steered: LimitsChanged) -> None:
        """Write the changes.

        Raises:
            StoreUnavailable: any of them may have been written.
        """
        if steered.adjustments:
            self._store.adjust(steered.upstream, steered.adjustments)
        for change in steered.changes:
            self._store.change(change)

    def _find(self, upstream: str, limit: str) -> Declared:
        declared = self._standing.limits(upstream)
        exact = [each for each in declared if each.bucket == limit]
        found = exact or [each for each in declared if limit in {each.rule.name, each.rule.key}]
        if not found:
            known = ", ".join(each.rule.name for each in declared) or "none"
            raise NothingMatched(f"{upstream} has no limit {limit!r}. It has: {known}")
        if len(found) > 1:
            shown = ", ".join(f"{each.bucket} ({each.task or 'upstream'})" for each in found)
            raise DeclarationError("limit", f"{limit!r} names {len(found)}", f"Give one of {shown}")
        return found[0]

    def _buckets(self, upstream: str, key: Key | None) -> dict[Declared, str]:
        """The buckets of this key; none without one."""
        if key is None:
            return {}
        argument, value = key
        limits = self._standing.limits(upstream)
        found = [limit for limit in limits if limit.rule.per == argument]
        if not found:
            known = sorted({f"{limit.rule.per}=…" for limit in limits if limit.rule.per})
            raise DeclarationError(
                "key",
                f"{upstream} has no limit per {argument}",
                f"Give {' or '.join(known)}" if known else "Leave it out: the whole upstream",
            )
        return {limit: bucket for limit in found if (bucket := limit.of(value)) is not None}


def _differences(
    shown: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[Difference, ...]:
    return tuple(
        Difference(f"{shown}: {field}", str(before[field]), str(after[field]))
        for field in after
        if before[field] != after[field]
    )


def _paused(
    upstream: str, key: Key | None, before: Pause | None, after: Pause | None
) -> Difference:
    shown = upstream if key is None else f"{upstream}, {key[0]}={key[1]}"
    return Difference(shown, said_pause(before), said_pause(after))
