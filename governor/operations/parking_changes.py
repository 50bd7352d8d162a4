"""Changes of parked tasks: they are taken out, go first, or move to another lane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from governor.admission.lanes import Lanes
from governor.errors import DeclarationError, UnreadableMessage
from governor.operations.limit_status import LimitStatusReader
from governor.operations.parking_status import Parked
from governor.policy.parking_values import Lane, Steering
from governor.ports import LimiterStore, MessageCopy

AT_ONCE = 100
"""Tasks that one record names."""


@dataclass(slots=True)
class ParkingChanged:
    """The result of a change, task by task.

    Attributes:
        done: it was done to these.
        gone: these had left their lane meanwhile, or were there already.
        problems: by task id, of those it was done to: what could not be done besides.
    """

    done: list[Parked] = field(default_factory=list)
    gone: list[Parked] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


class ParkingChanges:
    """Changes of parked tasks, each kept with its person and reason.

    Every method raises :class:`StoreUnavailable` when the store does not answer; what was asked for
    may or may not have been done.

    Args:
        standing: of the same store.
        shown: hides secrets in a tenant's name.
        revoke: tells the result backend that a task was revoked; without a message it knows the
            id only. Raises :class:`UnreadableMessage` before anything is written.
        announce: tells those who watch Celery's events that tasks were revoked.
        by: who does it.
    """

    def __init__(
        self,
        store: LimiterStore,
        standing: LimitStatusReader,
        *,
        shown: Callable[[str], str],
        revoke: Callable[[str, MessageCopy | None], None],
        announce: Callable[[Sequence[Parked]], None],
        by: str,
    ) -> None:
        self._lots = store.lots
        self._standing = standing
        self._lanes = Lanes(shown)
        self._revoke = revoke
        self._announce = announce
        self._by = by

    def cancel(self, parked: Sequence[Parked], why: str) -> ParkingChanged:
        """Take tasks out, make their results revoked, and announce it. Give it few at a time: what
        was taken out is told to the result backend afterwards."""
        steered = ParkingChanged()
        for upstream, tasks in _by_upstream(parked):
            before = len(steered.done)
            self._steer(steered, upstream, "cancel", tasks, why)
            for task in steered.done[before:]:
                problem = self._revoked(task)
                if problem:
                    steered.problems[task.task_id] = problem
        problem = self._announced(steered.done)
        if problem:
            for task in steered.done:
                known = steered.problems.get(task.task_id)
                steered.problems[task.task_id] = f"{known}; {problem}" if known else problem
        return steered

    def front(self, parked: Sequence[Parked], why: str) -> ParkingChanged:
        """Let tasks be the first of their lanes, in the order given."""
        steered = ParkingChanged()
        for upstream, tasks in _by_upstream(parked):
            # Of several that go to the front, the last one stands first.
            self._steer(steered, upstream, "front", tasks[::-1], why)
        return steered

    def move(
        self, parked: Sequence[Parked], why: str, *, rank: int | None, tenant: str | None
    ) -> ParkingChanged:
        """Let tasks wait at the end of the lane of another rank, or of another tenant.

        Raises:
            DeclarationError: no tenants take turns there.
        """
        steered = ParkingChanged()
        moves: dict[tuple[str, Lane], list[Parked]] = {}
        for task in parked:
            upstream = self._standing.upstream(task.upstream)
            if tenant is not None and upstream.fair_by is None:
                raise DeclarationError(
                    "tenant",
                    f"in {task.upstream} no tenants take turns",
                    'Declare fair_by="…", or move it with --priority',
                )
            to = self._lanes.moved(task.entry.lane, upstream, rank=rank, tenant=tenant)
            if to.name == task.entry.lane.name:
                steered.gone.append(task)
            else:
                moves.setdefault((task.upstream, to), []).append(task)
        for (name, lane), tasks in moves.items():
            self._steer(steered, name, "move", tasks, why, lane)
        return steered

    def _steer(  # noqa: PLR0917 - called in three places above
        self,
        steered: ParkingChanged,
        upstream: str,
        what: Literal["cancel", "front", "move"],
        tasks: Sequence[Parked],
        why: str,
        to: Lane | None = None,
    ) -> None:
        for at in range(0, len(tasks), AT_ONCE):
            some = tasks[at : at + AT_ONCE]
            entries = tuple(task.entry.entry for task in some)
            done = {*self._lots.steer(upstream, Steering(what, entries, to, self._by, why))}
            for task in some:
                (steered.done if task.entry.payload in done else steered.gone).append(task)

    def _revoked(self, task: Parked) -> str:
        """Make its result revoked; what was in the way of it."""
        message = task.message
        try:
            try:
                self._revoke(task.task_id, message)
            except UnreadableMessage:
                message = None
                self._revoke(task.task_id, None)
        except Exception as error:  # noqa: BLE001 - whatever the result backend's client raises
            # Its text may hold a password.
            return f"its result could not be written ({type(error).__name__})"
        if message is None:
            return "its message cannot be read: a chord it was part of does not hear of it"
        return ""

    def _announced(self, tasks: Sequence[Parked]) -> str:
        """Announce that they were revoked; what was in the way of it."""
        try:
            self._announce(tasks)
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
            # Its text may hold a password.
            return f"its task-revoked event could not be sent ({type(error).__name__})"
        return ""


def _by_upstream(parked: Iterable[Parked]) -> Iterator[tuple[str, list[Parked]]]:
    found: dict[str, list[Parked]] = {}
    for task in parked:
        found.setdefault(task.upstream, []).append(task)
    yield from found.items()
