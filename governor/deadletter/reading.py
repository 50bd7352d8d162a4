"""Questions to the dead-letter table, each one SELECT that has an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from governor.deadletter.models import AUDIT, DEAD_LETTERS, State
from governor.deadletter.rows import SHOWN, DeadLetter, dead_letter
from governor.ports import Reason

_letters = DEAD_LETTERS.c


def in_state(state: State) -> ColumnElement[bool]:
    """The condition with the state written out: a plan made without knowing the parameters
    cannot use an index that is only for some states."""
    return _letters.state == literal_column(f"'{state.value}'")


_MOST_GROUPS = 100


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters; every field that is set must match. Times in µs."""

    states: Sequence[State] = ()
    fingerprint: str | None = None
    task_name: str | None = None
    tenant: str | None = None
    upstream: str | None = None
    reason: Reason | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters in state ``dead`` with one fingerprint; the texts are the newest one's."""

    fingerprint: str
    count: int
    first_dead_at: int
    last_dead_at: int
    task_name: str | None
    reason: Reason
    exc_type: str | None
    exc_message: str | None
    newest_id: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change of a dead letter. ``at`` in µs."""

    at: int
    actor: str
    action: str
    reason: str | None
    from_state: str | None
    to_state: str
    version: int


def columns(*names: str) -> Select[Any]:
    """A SELECT of these columns of the dead letters."""
    return select(*(_letters[column] for column in names))


def group_sizes(since: int | None) -> Select[Any]:
    """The largest groups' fingerprints, sizes and times, from the group index alone."""
    counted = (
        select(
            _letters.fingerprint,
            func.count().label("size"),
            func.min(_letters.dead_at).label("first"),
            func.max(_letters.dead_at).label("last"),
        )
        .where(in_state(State.DEAD))
        .group_by(_letters.fingerprint)
        .order_by(func.count().desc(), _letters.fingerprint)
        .limit(_MOST_GROUPS)
    )
    return counted if since is None else counted.where(_letters.dead_at >= since)


def groups(connection: Connection, since: int | None) -> tuple[DeadGroup, ...]:
    """The largest groups, each with the texts of its newest row."""
    found = connection.execute(group_sizes(since)).all()
    newest = (
        columns("fingerprint", "task_name", "reason", "exc_type", "exc_message", "id")
        .where(in_state(State.DEAD))
        .where(
            tuple_(_letters.fingerprint, _letters.dead_at).in_(
                [(group.fingerprint, group.last) for group in found]
            )
        )
        .order_by(_letters.id)
    )
    sample = {row.fingerprint: row for row in connection.execute(newest)}
    return tuple(
        DeadGroup(
            fingerprint=group.fingerprint,
            count=group.size,
            first_dead_at=group.first,
            last_dead_at=group.last,
            task_name=sample[group.fingerprint].task_name,
            reason=Reason(sample[group.fingerprint].reason),
            exc_type=sample[group.fingerprint].exc_type,
            exc_message=sample[group.fingerprint].exc_message,
            newest_id=sample[group.fingerprint].id,
        )
        for group in found
    )


def count(connection: Connection, filters: Filters) -> int:
    """How many dead letters match."""
    query = _matching(select(func.count()).select_from(DEAD_LETTERS), filters)
    return int(connection.execute(query).scalar_one())


def newest(connection: Connection, filters: Filters, limit: int) -> tuple[DeadLetter, ...]:
    """The newest dead letters that match, newest first."""
    query = _matching(columns(*SHOWN), filters)
    # Ids sort by the time of death to the millisecond, and always have an index; within one
    # state the index by time is the better one.
    order = [_letters.id.desc()]
    if len(filters.states) == 1:
        order.insert(0, _letters.dead_at.desc())
    query = query.order_by(*order).limit(limit)
    return tuple(dead_letter(row) for row in connection.execute(query).mappings())


def one(connection: Connection, dead_letter_id: str) -> DeadLetter | None:
    """The dead letter with this id."""
    query = columns(*SHOWN).where(_letters.id == dead_letter_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else dead_letter(row)


def of_task(connection: Connection, task_id: str) -> tuple[DeadLetter, ...]:
    """The dead letters of this task, and those of which it is the replay, newest first."""
    query = (
        columns(*SHOWN)
        .where(or_(_letters.task_id == task_id, _letters.replay_task_id == task_id))
        .order_by(_letters.id.desc())
    )
    return tuple(dead_letter(row) for row in connection.execute(query).mappings())


def audit(connection: Connection, dead_letter_id: str) -> tuple[AuditEntry, ...]:
    """Every change of one dead letter, oldest first."""
    query = (
        select(*(AUDIT.c[column] for column in AuditEntry.__dataclass_fields__))
        .where(AUDIT.c.dead_letter_id == dead_letter_id)
        .order_by(AUDIT.c.version, AUDIT.c.at, AUDIT.c.id)
    )
    return tuple(AuditEntry(*row) for row in connection.execute(query))


def _matching(query: Select[Any], filters: Filters) -> Select[Any]:
    if filters.states:
        query = query.where(or_(*(in_state(state) for state in filters.states)))
    if filters.reason is not None:
        query = query.where(_letters.reason == filters.reason.value)
    if filters.since is not None:
        query = query.where(_letters.dead_at >= filters.since)
    for column in ("fingerprint", "task_name", "tenant", "upstream"):
        wanted = getattr(filters, column)
        if wanted is not None:
            query = query.where(_letters[column] == wanted)
    return query
