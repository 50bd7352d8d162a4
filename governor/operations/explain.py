"""Why a task does not run: what the workers, the limits and the dead letters say about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from governor.deadletter.reading import AuditEntry
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import DeadLetter
from governor.errors import NothingMatched, StoreUnavailable
from governor.operations.limit_status import LimitStatusReader, LimitView, UpstreamView


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A task that waits in a worker. Instants are wall-clock microseconds; what the worker did not
    say is ``None``.

    Attributes:
        where: ``held`` inside the worker, ``deferred`` with a countdown, or ``asking``.
        limit: the name of what it waits for: a limit, ``pause``, ``breaker`` or ``claim``.
        standing: that limit as it stands.
        upstream_view: the upstream as it stands, without its limits per argument.
    """

    worker: str
    task: str | None
    upstream: str
    where: str
    limit: str | None
    until: int | None
    since: int | None
    deferrals: int
    standing: LimitView | None
    upstream_view: UpstreamView | None


@dataclass(frozen=True, slots=True)
class DeadTask:
    """A dead letter with what was done about it.

    Attributes:
        replayed_as: the task asked about is a replay of it, not the one that died.
    """

    letter: DeadLetter
    audit: tuple[AuditEntry, ...]
    replayed_as: bool


def waiting(
    task_id: str, replies: Iterable[Mapping[str, Any]], standing: LimitStatusReader
) -> tuple[WaitingTask, ...]:
    """Find a task in the workers' replies, with the limits they name.

    Args:
        replies: of each worker by its name; what is no list of waiting tasks is left out.
    """
    return tuple(
        _waiting(worker, entry, standing)
        for reply in replies
        for worker, entries in reply.items()
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict) and entry.get("task_id") == task_id
    )


def _waiting(worker: str, entry: Mapping[str, Any], standing: LimitStatusReader) -> WaitingTask:
    upstream, task = str(entry.get("upstream") or ""), entry.get("task")
    # [bucket, slot, charged]: it waits for the furthest.
    reserved = [each for each in entry.get("reserved") or () if len(each) > 1]
    held = sorted(reserved, key=lambda each: each[1], reverse=True)
    buckets: Sequence[str] = [str(each[0]) for each in held]
    name = entry.get("limit")
    view, found = None, None
    try:
        view = standing.view(upstream, ())
        found = standing.waited_for(upstream, str(task), name, buckets)
    except (NothingMatched, StoreUnavailable):
        # The worker's word is worth showing all the same.
        pass
    if name is None and found is not None:
        name = found.declared.rule.name
    return WaitingTask(
        worker=worker,
        task=task,
        upstream=upstream,
        where=str(entry.get("where")),
        limit=name,
        until=entry.get("until"),
        since=entry.get("since"),
        deferrals=int(entry.get("deferrals") or 0),
        standing=found,
        upstream_view=view,
    )


def dead(task_id: str, dead_letters: SqlDeadLetters) -> tuple[DeadTask, ...]:
    """The dead letters of a task, and those that it replays, newest first.

    Raises:
        DatabaseUnavailable
    """
    return tuple(
        DeadTask(letter, dead_letters.audit(letter.id), letter.task_id != task_id)
        for letter in dead_letters.of_task(task_id)
    )
