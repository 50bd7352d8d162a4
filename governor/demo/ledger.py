"""The balance of a run: arithmetic over three independent witnesses.

The producer's log says what was published, the upstream's ledger which calls reached it, the
dead-letter table which tasks died. What the broker still holds is waiting. Nothing here comes
from the governor's own counters, so nothing here can hide the governor's own mistakes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from governor.deadletter.engine import bounded
from governor.demo.scenario import run_of

NOT_EXECUTED = frozenset({"rejected", "throttled"})
"""Verdicts of calls that the upstream turned away: they did not happen."""

_DEAD = sa.text("SELECT task_id, reason FROM governor_dead_letters WHERE task_id LIKE :run")

_EFFECT = frozenset({"ok", "repeated"})

_OUTCOME_OPEN = frozenset(
    {"outcome_unknown", "worker_lost", "hard_time_limit", "memory_error", "system_exit"}
)
"""Reasons that do not deny that the call was made: a successful call may stand beside them."""


@dataclass(frozen=True, slots=True)
class Published:
    """One task the producer handed to the broker."""

    task_id: str
    task: str
    upstream: str
    idempotent: bool

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        return cls(line["task_id"], line["task"], line["upstream"], line["idempotent"])


@dataclass(slots=True)
class CallRecord:
    """One call that reached the upstream. Times are microseconds, monotonic."""

    number: int
    task_id: str
    key: str
    api: str
    verdict: str
    began: int
    ended: int | None = None

    @property
    def executed(self) -> bool:
        """Tell whether the call happened, or may have."""
        return self.verdict not in NOT_EXECUTED

    @property
    def succeeded(self) -> bool:
        return self.verdict in _EFFECT and self.ended is not None


@dataclass(frozen=True, slots=True)
class DeadRow:
    """One row of the dead-letter table."""

    task_id: str
    reason: str


class JsonLines:
    """A growing file of JSON lines, read on from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)


class CallLedger:
    """The upstream's ledger, kept up to date by :meth:`read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path)
        self._by_number: dict[int, CallRecord] = {}
        self.port: int | None = None
        self.succeeded: set[str] = set()

    @property
    def calls(self) -> list[CallRecord]:
        return list(self._by_number.values())

    def read(self) -> None:
        for line in self._lines.read():
            match line["event"]:
                case "listening":
                    self.port = line["port"]
                case "began":
                    self._by_number[line["call"]] = CallRecord(
                        line["call"],
                        line["task"],
                        line["key"],
                        line["api"],
                        line["verdict"],
                        line["mono"],
                    )
                case "ended":
                    call = self._by_number[line["call"]]
                    call.ended = line["mono"]
                    if call.succeeded:
                        self.succeeded.add(call.task_id)


def read_producer_log(path: Path) -> list[Published]:
    """Every task the producer's log names."""
    return [Published.of(line) for line in JsonLines(path).read()]


def read_dead_rows(database: sa.Engine, task_ids: Iterable[str]) -> list[DeadRow]:
    """The dead letters of these tasks, from the table itself.

    Raises:
        DatabaseUnavailable: the database did not answer.
    """
    wanted = set(task_ids)
    runs = {run_of(task_id) for task_id in wanted}
    with bounded(database, write=False) as connection:
        rows = [
            row
            for run in runs
            for row in connection.execute(_DEAD, {"run": f"{run}-%"})
            if row.task_id in wanted
        ]
    return [DeadRow(row.task_id, row.reason) for row in rows]


@dataclass(frozen=True, slots=True)
class Tally:
    """The balance of one run. The tuples name tasks.

    Attributes:
        succeeded: tasks whose call was answered with success.
        dead: rows in the dead-letter table; two rows for one task are two.
        waiting: tasks the broker still holds, neither succeeded nor dead.
        lost: published, and in none of the three.
        duplicated: tasks whose call happened twice where it must not: a non-idempotent one
            executed again, or an idempotent one with two effects under two keys.
        contradicted: tasks with a success *and* a dead letter that denies it, or with two rows.
        unexpected: tasks that called the upstream and were never published.
        makespan: from the first accepted call to the last, in microseconds.
    """

    published: int
    succeeded: int
    dead: int
    waiting: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    contradicted: tuple[str, ...]
    unexpected: tuple[str, ...]
    upstream_calls: int
    upstream_rejected: int
    upstream_throttled: int
    makespan: int

    @property
    def balanced(self) -> bool:
        """Published = succeeded + dead + waiting, nothing lost, doubled, denied or made up."""
        return self.published == self.succeeded + self.dead + self.waiting and not (
            self.lost or self.duplicated or self.contradicted or self.unexpected
        )


def tally(
    published: Sequence[Published],
    calls: Sequence[CallRecord],
    dead: Sequence[DeadRow],
    waiting: Iterable[str],
) -> Tally:
    """Balance the witnesses.

    A task whose call succeeded and whose worker then died counts as dead when its dead letter
    leaves the outcome open (``outcome_unknown`` and its like), which is all that could be known.
    """
    ours = {task.task_id: task for task in published}
    by_task: dict[str, list[CallRecord]] = defaultdict(list)
    for call in calls:
        by_task[call.task_id].append(call)
    answered = {task_id for task_id in ours if any(c.succeeded for c in by_task[task_id])}
    rows = Counter(row.task_id for row in dead)
    open_outcome = {row.task_id for row in dead if row.reason in _OUTCOME_OPEN}
    succeeded = answered - open_outcome
    left = set(waiting) & ours.keys() - answered - rows.keys()
    denied = {row.task_id for row in dead if row.task_id in succeeded}
    accepted = [call.began for call in calls if call.executed]
    return Tally(
        published=len(ours),
        succeeded=len(succeeded),
        dead=rows.total(),
        waiting=len(left),
        lost=_sorted(ours.keys() - answered - rows.keys() - left),
        duplicated=_sorted(t for t in ours if _doubled(ours[t], by_task[t])),
        contradicted=_sorted(denied | {task_id for task_id, n in rows.items() if n > 1}),
        unexpected=_sorted(by_task.keys() - ours.keys()),
        upstream_calls=len(calls),
        upstream_rejected=sum(call.verdict == "rejected" for call in calls),
        upstream_throttled=sum(call.verdict == "throttled" for call in calls),
        makespan=max(accepted) - min(accepted) if accepted else 0,
    )


def _doubled(task: Published, calls: Sequence[CallRecord]) -> bool:
    if not task.idempotent:
        return sum(call.executed for call in calls) > 1
    # Without a key every success is an effect of its own.
    keys = [call.key for call in calls if call.verdict in _EFFECT]
    return len(set(keys)) > 1 or keys.count("") > 1


def _sorted(task_ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(task_ids))
