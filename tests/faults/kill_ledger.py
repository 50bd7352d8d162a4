"""Fates of tasks whose workers were killed: arithmetic over what was seen from outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from governor.ports import Reason


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of task.

    Attributes:
        upstream: its name; ``api`` paces, ``crowd`` counts what is in flight, ``slow`` parks.
        idempotent: whether it is declared so.
        failures: how many attempts fail before one succeeds.
        fails: whether every attempt does.
        share: of all tasks, as a weight.
    """

    upstream: str
    idempotent: bool
    failures: int = 0
    fails: bool = False
    share: int = 1


KINDS = {
    "call": Kind("api", idempotent=True, share=6),
    "call_once": Kind("api", idempotent=False, share=8),
    "crowd": Kind("crowd", idempotent=True, share=2),
    "crowd_once": Kind("crowd", idempotent=False, share=3),
    "parked": Kind("slow", idempotent=True, share=2),
    "parked_once": Kind("slow", idempotent=False, share=3),
    "flaky": Kind("api", idempotent=True, failures=1, share=2),
    "wrong": Kind("api", idempotent=True, fails=True),
    "wrong_once": Kind("api", idempotent=False, fails=True),
}

# What a kill may make of a task, whatever its body would have done.
_KILLED = {True: {Reason.WORKER_LOST}, False: {Reason.OUTCOME_UNKNOWN, Reason.WORKER_LOST}}


def _reasons(kind: Kind) -> set[Reason]:
    """Reasons that the dead letter of a task of this kind may have."""
    own: set[Reason] = set()
    if kind.fails:
        own = {Reason.NOT_RETRYABLE} if kind.idempotent else {Reason.NOT_IDEMPOTENT}
    return own | _KILLED[kind.idempotent]


@dataclass(frozen=True, slots=True)
class Begun:
    """A body that began."""

    task_id: str
    attempt: int


@dataclass(slots=True)
class Account:
    """The sum. Each fault names task ids.

    Attributes:
        succeeded: tasks with a body that got to its end.
        dead: tasks with a dead letter and no such body.
        lost: published, and neither succeeded nor dead nor waiting.
        lost_by_broker: those of them that the broker handed out and has no note of.
        doubled: not idempotent, and begun twice.
        rows: tasks with more than one dead letter.
        unexpected: what was never published, or died of something that was not done to it.
        repeated: idempotent attempts that began more than once; allowed.
    """

    published: int = 0
    succeeded: int = 0
    dead: int = 0
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    lost_by_broker: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, list[str]]:
        """List the tasks of each kind of fault, by its name; empty when all is well."""
        found = {
            "lost": [task for task in self.lost if task not in self.lost_by_broker],
            "doubled": self.doubled,
            "rows": self.rows,
            "unexpected": self.unexpected,
        }
        return {name: tasks for name, tasks in found.items() if tasks}


def account(
    published: Mapping[str, str],
    begun: Iterable[Begun],
    done: Collection[str],
    rows: Iterable[tuple[str, Reason]],
    *,
    unnoted: Collection[str] = (),
) -> Account:
    """Add up.

    Args:
        published: the kind of each task id.
        begun: in any order.
        done: task ids whose body got to its end.
        rows: task id and reason of each dead letter.
        unnoted: task ids whose message a Redis broker handed out last and has no note of.
    """
    attempts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for each in begun:
        attempts[each.task_id][each.attempt] += 1
    letters: defaultdict[str, list[Reason]] = defaultdict(list)
    for task, reason in rows:
        letters[task].append(reason)
    found = Account(published=len(published))
    for task, name in published.items():
        kind = KINDS[name]
        if task in done:
            found.succeeded += 1
        elif task in letters:
            found.dead += 1
        else:
            found.lost.append(task)
            if task in unnoted:
                found.lost_by_broker.append(task)
        if len(letters[task]) > 1:
            found.rows.append(task)
        if not set(letters[task]) <= _reasons(kind):
            found.unexpected.append(f"{task} ({name}): {', '.join(letters[task])}")
        times = attempts[task].values()
        if kind.idempotent:
            found.repeated += sum(times) - len(times)
        elif sum(times) > 1:
            found.doubled.append(task)
    found.unexpected += sorted({*attempts, *letters} - set(published))
    return found
