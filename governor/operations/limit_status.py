"""How the limits of an application stand: what is declared, what is in force, what is left.

For people; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from governor.admission.limits_in_force import PAUSED_KEY, numbers_of
from governor.clock import SECOND, Clock, as_datetime
from governor.errors import DeclarationError, NothingMatched, StoreUnavailable, UpstreamStateError
from governor.keys import digest, name_of
from governor.policy.adaptive import WHOLE, Share
from governor.policy.breaker import Breaker, Closed, Open
from governor.policy.decision import AnyCharge, QuotaCharge
from governor.policy.limit_status import LimitStatus, numbers
from governor.policy.limits import Rule
from governor.policy.plan import CallPlan
from governor.policy.upstream import StoreDown, UpstreamDeclaration
from governor.ports import LimiterStore, Look

FOREVER = 4_102_444_800 * SECOND
"""When a pause without an end ends: in the year 2100."""

Key = tuple[str, str]
"""A ``per=`` argument and its value."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A limit as it is declared.

    Attributes:
        bucket: of its buckets' names, what comes before a ``per=`` value.
        task: whose own limit it is; ``None`` for one of the upstream.
    """

    bucket: str
    rule: Rule
    task: str | None = None

    def of(self, value: str | None) -> str | None:
        """The name of the bucket of this value; ``None`` when one is needed and not given."""
        if self.rule.per is None:
            return self.bucket
        return None if value is None else f"{self.bucket}:{digest(name_of(value))}"

    def changed(self, changes: Mapping[str, Mapping[str, Any]]) -> Rule:
        """The limit with the changes in force; those that do not fit it have no effect."""
        try:
            return self.rule.with_numbers(changes.get(self.bucket, {}))
        except DeclarationError:
            return self.rule


@dataclass(frozen=True, slots=True)
class Record:
    """One change a person made. ``at`` in microseconds on the store's clock."""

    at: int
    what: str
    target: str
    value: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in force.

    Attributes:
        until: when it ends, microseconds on the store's clock; :data:`FOREVER` for one without an
            end.
        record: who made it and why; ``None`` when the upstream said so.
        bucket: of the one key it is for; ``""`` for the whole upstream.
    """

    until: int
    record: Record | None
    bucket: str = ""


@dataclass(frozen=True, slots=True)
class LimitView:
    """A limit as it stands.

    Attributes:
        value: of its ``per=`` argument; ``None`` when none was asked about.
        in_force: its numbers; the declared ones unless they were changed.
        numbers: ``None`` when the store does not answer, or without a value for its ``per=``.
        record: who changed its numbers last, and why.
    """

    declared: Declared
    value: str | None
    in_force: Mapping[str, Any]
    numbers: LimitStatus | None
    record: Record | None

    @property
    def changed(self) -> bool:
        """Tell whether other numbers are in force than the declared ones."""
        return self.in_force != self.declared.rule.numbers()


@dataclass(frozen=True, slots=True)
class UpstreamView:
    """An upstream as it stands.

    Attributes:
        now: the store's time; ``None`` when it does not answer: then nothing is known but what is
            declared.
        pauses: those in force, of the upstream and of its keys.
        breaker: ``None`` when it has none.
        share: of the declared rates that is in force, from 0 to 1; ``None`` when it does not adapt.
        problem: what is wrong with the upstream's data, when only that keeps the store from
            answering.
    """

    name: str
    now: int | None
    store_down: StoreDown
    max_wait: int
    limits: tuple[LimitView, ...]
    pauses: tuple[Pause, ...] = ()
    breaker: Breaker | None = None
    share: float | None = None
    problem: str | None = None


class LimitStatusReader:
    """A reader of an application's limits.

    Args:
        upstreams: by name.
        plans: of the governed task types.
    """

    def __init__(
        self,
        store: LimiterStore,
        upstreams: Mapping[str, UpstreamDeclaration],
        plans: Iterable[CallPlan],
        clock: Clock,
    ) -> None:
        self._store = store
        self._clock = clock
        self._upstreams = upstreams
        self._limits: dict[str, list[Declared]] = {
            name: [Declared(rule.key, rule) for rule in upstream.limits]
            for name, upstream in upstreams.items()
        }
        self._shapes: dict[str, set[tuple[str, ...]]] = {}
        for plan in plans:
            shapes = self._shapes.setdefault(plan.upstream.name, set())
            for each in (plan, plan.leaving_reserve()):
                shapes.add(each.shape)
            own = plan.limits[len(plan.upstream.limits) :]
            found = self._limits.setdefault(plan.upstream.name, [])
            found += (Declared(bucket, rule, plan.task) for bucket, rule in own)

    def names(self) -> tuple[str, ...]:
        """The upstreams' names, in alphabetical order."""
        return tuple(sorted(self._upstreams))

    def upstream(self, name: str) -> UpstreamDeclaration:
        """The upstream of this name.

        Raises:
            NothingMatched: none is called so.
        """
        try:
            return self._upstreams[name]
        except KeyError:
            known = ", ".join(self.names()) or "none"
            raise NothingMatched(f"No upstream is called {name!r}. There are: {known}") from None

    def limits(self, upstream: str) -> Sequence[Declared]:
        """List an upstream's declared limits, those of single task types last.

        Raises:
            NothingMatched: no upstream is called so.
        """
        self.upstream(upstream)
        return self._limits[upstream]

    def declares(self, upstream: str, buckets: Sequence[str]) -> bool:
        """Tell whether a task type is charged to such buckets, whatever their ``per=`` values."""
        shape = tuple(bucket.partition(":")[0] for bucket in buckets)
        return shape in self._shapes.get(upstream, ())

    def view(self, upstream: str, keys: Sequence[Key]) -> UpstreamView:
        """An upstream as it stands, its ``per=`` limits for these values. That the store does not
        answer is part of the view.

        Raises:
            NothingMatched: no upstream is called so.
        """
        declared = self.upstream(upstream)
        wanted = [
            (limit, value := dict(keys).get(limit.rule.per or ""), limit.of(value))
            for limit in self._limits[upstream]
        ]
        try:
            look, limits = self._look(upstream, wanted)
        except StoreUnavailable as exc:
            limits = tuple(
                LimitView(limit, value, limit.rule.numbers(), None, None)
                for limit, value, _ in wanted
            )
            problem = str(exc) if isinstance(exc, UpstreamStateError) else None
            return UpstreamView(
                upstream, None, declared.store_down, declared.max_wait, limits, problem=problem
            )
        return UpstreamView(
            upstream,
            look.now,
            declared.store_down,
            declared.max_wait,
            limits,
            pauses=pauses(look),
            breaker=look.state.breaker if declared.breaker else None,
            share=look.state.share.share / WHOLE if declared.adaptive else None,
        )

    def waited_for(
        self, upstream: str, task: str, name: str | None, buckets: Sequence[str]
    ) -> LimitView | None:
        """The limit that a task of this type waits for, when it can be told.

        Args:
            name: the limit's, when the worker knows it.
            buckets: in which the task holds a slot, the one that matters first.

        Raises:
            StoreUnavailable: no answer in time.
        """
        candidates = [
            limit
            for limit in self._limits.get(upstream, ())
            if limit.task in {None, task} and name in {None, limit.rule.name}
        ]
        for bucket in buckets:
            for limit in candidates:
                if limit.bucket == bucket.partition(":")[0]:
                    return self._look(upstream, [(limit, None, bucket)])[1][0]
        for limit in candidates if name is not None else ():
            return self._look(upstream, [(limit, None, limit.of(None))])[1][0]
        return None

    def log(self, upstream: str) -> tuple[Record, ...]:
        """The latest changes of an upstream, newest first.

        Raises:
            NothingMatched: no upstream is called so.
            StoreUnavailable: no answer in time.
        """
        self.upstream(upstream)
        return records(self._store.look(upstream, ()).log)

    def log_since(self, upstream: str, since: int) -> tuple[Record, ...]:
        """The changes of an upstream at ``since`` or later that are kept, newest first.

        Raises:
            NothingMatched: no upstream is called so.
            StoreUnavailable: no answer in time.
        """
        self.upstream(upstream)
        return records(self._store.log(upstream, since))

    def shown(self, upstream: str, target: str) -> str:
        """A change's target as people call it."""
        prefix, _, value = target.removeprefix(PAUSED_KEY).partition(":")
        found = next((d for d in self._limits.get(upstream, ()) if d.bucket == prefix), None)
        if not target or found is None:
            return target or upstream
        name = found.rule.name if found.task is None else f"{found.rule.name} of {found.task}"
        return f"{name} ({value})" if value else name

    def _look(
        self, upstream: str, wanted: Sequence[tuple[Declared, str | None, str | None]]
    ) -> tuple[Look, tuple[LimitView, ...]]:
        """One look at the store for limits with the value and the bucket that are meant."""
        asked = [self._charge(limit.rule, bucket) for limit, _, bucket in wanted]
        look = self._store.look(upstream, [charge for charge in asked if charge is not None])
        state = look.state
        if self._upstreams[upstream].adaptive is None:
            state = replace(state, share=Share())
        changes, log = numbers_of(look.in_force), records(look.log)
        views = []
        for limit, value, bucket in wanted:
            rule = limit.changed(changes)
            charge = self._charge(rule, bucket)
            sets = (r for r in log if r.what == "set" and r.target == limit.bucket)
            views.append(
                LimitView(
                    limit,
                    value,
                    rule.numbers(),
                    None if charge is None else numbers(charge, state, look.now),
                    next(sets, None) if limit.bucket in changes else None,
                )
            )
        return look, tuple(views)

    def _charge(self, rule: Rule, bucket: str | None) -> AnyCharge | None:
        """Return the charge of one call; of cost 1 where the cost depends on arguments."""
        if bucket is None:
            return None
        charge = rule.charge_on(bucket, 1 if callable(rule.cost) else min(rule.cost, rule.most))
        return charge.dated(self._clock.wall()) if isinstance(charge, QuotaCharge) else charge


def records(log: Sequence[Mapping[str, str]]) -> tuple[Record, ...]:
    """The log, newest first."""
    return tuple(
        Record(int(r["at"]), r["what"], r["target"], r["value"], r["by"], r["why"]) for r in log
    )


def pauses(look: Look) -> tuple[Pause, ...]:
    """The pauses in force: the upstream's first, then those of its keys."""
    found = {"": look.state.pause}
    for target, value in look.in_force.values.items():
        if target.startswith(PAUSED_KEY):
            found[target] = int(value)
    log = [r for r in records(look.log) if r.what in {"pause", "resume"}]
    made = []
    for target, until in found.items():
        if until > look.now:
            record = next((r for r in log if r.target == target), None)
            ours = record is not None and record.value == str(until)
            made.append(Pause(until, record if ours else None, target.removeprefix(PAUSED_KEY)))
    return tuple(made)


def said_pause(pause: Pause | None) -> str:
    """A pause in words."""
    if pause is None:
        return "not paused"
    return "paused" if pause.until >= FOREVER else f"paused until {when(pause.until)}"


def said_breaker(breaker: Breaker, now: int) -> str:
    """A breaker in words."""
    if isinstance(breaker, Closed):
        failed = breaker.ring.count("1")
        return f"closed, {failed} of the latest {len(breaker.ring)} failed" if failed else "closed"
    if isinstance(breaker, Open) and breaker.until <= now:
        return "open, waiting for a probe"
    if isinstance(breaker, Open):
        return f"open until {when(breaker.until)}"
    return f"half-open, {breaker.level} at a time"


def when(micros: int) -> str:
    """An instant in words: to the second, in UTC."""
    return as_datetime(micros).strftime("%Y-%m-%d %H:%M:%S UTC")
