"""The dead-letter table over time: deaths by their reasons, and how long groups lasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.engine import URL

from governor.deadletter.engine import TIMEOUT, bounded, bounded_engine
from governor.deadletter.models import DEAD_LETTERS, State

_letters = DEAD_LETTERS.c


@dataclass(frozen=True, slots=True)
class DeadCount:
    """Number of the rows of one state, reason and task."""

    state: str
    reason: str
    task_name: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which a group had rows that were not resolved. Times in µs.

    Attributes:
        began: when the first of them died.
        ended: when the last of them was resolved; ``None``: one is not.
    """

    fingerprint: str
    began: int
    ended: int | None


class DeadLetterHistory:
    """Questions about all rows, which are answered from an index or take a while.

    Args:
        database: a database URL.
        timeout: seconds a question may take.

    Raises:
        ConfigurationError: the URL names no database the governor can use.
    """

    def __init__(self, database: str | URL, *, timeout: float = TIMEOUT) -> None:
        self._engine = bounded_engine(database, timeout=timeout)
        self._timeout = timeout

    def close(self) -> None:
        """Close every connection; the next question opens new ones."""
        self._engine.dispose()

    def counts(self, since: int | None = None, before: int | None = None) -> tuple[DeadCount, ...]:
        """Count the rows by state, reason and task, of those that died at ``since`` (µs) or later
        and before ``before``.

        Raises:
            DatabaseUnavailable
        """
        with bounded(self._engine, timeout=self._timeout, write=False) as connection:
            return tuple(DeadCount(*row) for row in connection.execute(row_counts(since, before)))

    def episodes(self, before: int) -> tuple[Episode, ...]:
        """The episodes of all groups that began before ``before`` (µs), as they stood then.

        Raises:
            DatabaseUnavailable
        """
        query = (
            select(_letters.fingerprint, _letters.dead_at, _letters.state, _letters.state_at)
            .where(_letters.dead_at < before)
            .order_by(_letters.fingerprint, _letters.dead_at)
        )
        with bounded(self._engine, timeout=self._timeout, write=False) as connection:
            rows = connection.execution_options(yield_per=1000).execute(query)
            return tuple(_episodes(rows, before))


def row_counts(since: int | None, before: int | None) -> Select[Any]:
    """The question of :meth:`DeadLetterHistory.counts`; the index of counts answers it alone."""
    by = (_letters.state, _letters.reason, _letters.task_name)
    query = select(*by, func.count()).group_by(*by).order_by(*by)
    if since is not None:
        query = query.where(_letters.dead_at >= since)
    return query if before is None else query.where(_letters.dead_at < before)


def _episodes(rows: Iterable[Any], before: int) -> Iterator[Episode]:
    """Join the rows of each group that overlap in time; they come by group and time of death."""
    for fingerprint, group in groupby(rows, key=lambda row: str(row.fingerprint)):
        spans = (
            (row.dead_at, row.state_at)
            if row.state == State.RESOLVED and row.state_at < before
            else (row.dead_at, None)
            for row in group
        )
        for began, ended in joined(spans):
            yield Episode(fingerprint, began, ended)


def joined(spans: Iterable[tuple[int, int | None]]) -> Iterator[tuple[int, int | None]]:
    """Join spans that overlap or touch; they come in the order of their beginnings. An end that is
    ``None`` never comes."""
    current: tuple[int, int | None] | None = None
    for began, ended in spans:
        if current is None:
            current = began, ended
        elif current[1] is None or began <= current[1]:
            later = None if current[1] is None or ended is None else max(current[1], ended)
            current = current[0], later
        else:
            yield current
            current = began, ended
    if current is not None:
        yield current
