"""A month in figures, from what is recorded.

What people changed about limits, what died, how long it took until it was resolved, and how many
task types declare what a failure leads to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from governor import keys
from governor.clock import as_datetime, as_micros
from governor.deadletter.history import DeadCount, Episode
from governor.errors import ConfigurationError
from governor.operations.limit_status import LimitStatusReader
from governor.policy.plan import Governance

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_OF_LIMITS = frozenset({"set", "reset", "pause", "resume"})


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC. Its ends are µs since the epoch.

    Attributes:
        before: the first instant after it.
    """

    name: str
    since: int
    before: int

    @classmethod
    def named(cls, name: str) -> Month:
        """Read ``2026-11``.

        Raises:
            ConfigurationError: the text names no month.
        """
        found = _MONTH.fullmatch(name)
        if found is None or not 1970 <= int(found[1]) < 9999:
            raise ConfigurationError(f"month: {name!r} is not a month. Write it like 2026-11")
        year, month = int(found[1]), int(found[2])
        first = datetime(year, month, 1, tzinfo=UTC)
        following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        return cls(name, as_micros(first), as_micros(following))

    @classmethod
    def at(cls, moment: int) -> Month:
        """Return the month in which an instant (µs) lies."""
        return cls.named(as_datetime(moment).strftime("%Y-%m"))


@dataclass(frozen=True, slots=True)
class TaskType:
    """The declaration of a task type, summed up.

    Attributes:
        upstream: the one it calls; ``None`` for a type that is not governed.
        declared: the type's own declaration names the upstream; else a route does.
        idempotency: the declaration says whether it is idempotent, be it so or not.
        contract: the declaration says what a failed call leads to: upstream and idempotency, and
            for an idempotent type a retry policy.
    """

    name: str
    upstream: str | None
    declared: bool
    idempotency: bool
    contract: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """How often people changed the limits of an upstream in one way.

    Attributes:
        what: ``set``, ``reset``, ``pause`` or ``resume``.
        people: how many did.
    """

    upstream: str
    what: str
    count: int
    people: int


@dataclass(frozen=True, slots=True)
class Deaths:
    """Number of the dead letters of one reason and task type that died in the month."""

    reason: str
    task: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """How long groups of dead letters lasted. Times in µs.

    Attributes:
        resolved: groups whose last row was resolved in the month.
        mean: from their first death to that; ``None`` without any.
        open: groups with a row that is not resolved, or was not when the month ended.
        oldest: when the first of those began.
    """

    resolved: int
    mean: int | None
    open: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """A month in figures.

    Attributes:
        changes_missing: upstreams of which more may have been recorded than is kept.
        types: the governed task types.
        ungoverned: how many task types call no upstream.
    """

    month: Month
    changes: tuple[Changes, ...]
    changes_missing: tuple[str, ...]
    deaths: tuple[Deaths, ...]
    resolution: Resolution
    types: tuple[TaskType, ...]
    ungoverned: int

    @property
    def with_idempotency(self) -> int:
        """How many governed task types say whether they are idempotent."""
        return sum(each.idempotency for each in self.types)

    @property
    def with_contract(self) -> int:
        """How many governed task types say what a failure leads to."""
        return sum(each.contract for each in self.types)

    @property
    def share(self) -> float | None:
        """Their share, 0 to 1; ``None`` without governed task types."""
        return self.with_contract / len(self.types) if self.types else None


def scorecard(
    month: Month,
    standing: LimitStatusReader,
    counts: Callable[[int, int], Sequence[DeadCount]],
    episodes: Callable[[int], Iterable[Episode]],
    types: Iterable[TaskType],
) -> Scorecard:
    """Make the scorecard of a month.

    Args:
        counts: of the rows that died between two instants.
        episodes: of the groups, as they stood at an instant.

    Raises:
        StoreUnavailable, DatabaseUnavailable: no answer in time.
    """
    changes, missing = changes_by_people(month, standing)
    known = sorted(types, key=lambda each: each.name)
    governed = tuple(each for each in known if each.upstream is not None)
    return Scorecard(
        month,
        changes,
        missing,
        deaths(counts(month.since, month.before)),
        resolution(month, episodes(month.before)),
        governed,
        len(known) - len(governed),
    )


def task_types(
    tasks: Mapping[str, Any], governed: Callable[[str], Governance | None], base: type
) -> tuple[TaskType, ...]:
    """Look at what task types declare; Celery's own are left out.

    Args:
        tasks: the application's, by name.
        governed: how the type of this name is governed; ``None`` when it is not.
        base: the class of governed tasks, whose defaults nobody has declared.

    Raises:
        DeclarationError: a declaration cannot work.
    """
    found = []
    for name, task in sorted(tasks.items()):
        if name.startswith("celery."):
            continue
        governance = governed(name)
        declared = getattr(task, "upstream", None) is not None
        classes = [each for each in type(task).__mro__ if each is not base]
        idempotency = declared and any("idempotent" in vars(each) for each in classes)
        contract = (
            idempotency
            and governance is not None
            and (governance.retry is not None or not governance.idempotent)
        )
        upstream = None if governance is None else governance.plan.upstream.name
        found.append(TaskType(name, upstream, declared, idempotency, contract))
    return tuple(found)


def changes_by_people(
    month: Month, standing: LimitStatusReader
) -> tuple[tuple[Changes, ...], tuple[str, ...]]:
    """Count what people changed about limits, and name the upstreams whose log may have lost some.

    Raises:
        StoreUnavailable: no answer in time.
    """
    made: list[Changes] = []
    missing = []
    for upstream in standing.names():
        log = standing.log_since(upstream, month.since)
        if len(log) >= keys.RECORDS_KEPT:
            missing.append(upstream)
        within = [each for each in log if each.at < month.before and each.what in _OF_LIMITS]
        for what, count in sorted(Counter(each.what for each in within).items()):
            people = {each.by for each in within if each.what == what}
            made.append(Changes(upstream, what, count, len(people)))
    return tuple(made), tuple(missing)


def deaths(counts: Iterable[DeadCount]) -> tuple[Deaths, ...]:
    """Add up the states of each reason and task; the largest number comes first."""
    summed: Counter[tuple[str, str | None]] = Counter()
    for each in counts:
        summed[each.reason, each.task_name] += each.count
    ordered = sorted(summed.items(), key=lambda one: (-one[1], one[0][0], one[0][1] or ""))
    return tuple(Deaths(reason, task, count) for (reason, task), count in ordered)


def resolution(month: Month, episodes: Iterable[Episode]) -> Resolution:
    """Take the mean of the groups that were resolved in the month, and count the open ones."""
    lasted, began = [], []
    for each in episodes:
        if each.ended is None:
            began.append(each.began)
        elif month.since <= each.ended < month.before:
            lasted.append(each.ended - each.began)
    mean = sum(lasted) // len(lasted) if lasted else None
    return Resolution(len(lasted), mean, len(began), min(began, default=None))
