"""Events: what happens to tasks, upstreams and the limiter store, as values that anybody may
listen to.

``docs/events.md`` is the contract: every event, its fields, and when it is emitted; a test compares
the two. Nothing in the governor depends on an event being heard.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakSet

from governor.log_lines import LOG


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Durations are microseconds.

    Attributes:
        kind: the event's name, for logs and the table of ``docs/events.md``.
        at: wall-clock microseconds.
    """

    kind: ClassVar[str] = ""

    at: int


@dataclass(frozen=True, slots=True)
class TaskEvent(Event):
    """Something that happened to one task.

    Attributes:
        task: the task type's name.
        upstream: its upstream's name; empty for a message that is no governed task's.
    """

    task_id: str
    task: str
    upstream: str


@dataclass(frozen=True, slots=True)
class TaskAdmitted(TaskEvent):
    """A task may run: it is charged to all its limits and has a pool slot.

    Attributes:
        attempt: Celery's ``retries``.
        waited: from its first admission decision.
        deferrals: how often it was parked or deferred meanwhile.
        limit: the limit it waited for last; empty if it waited for none, or that is not known.
        traceparent: the header of that name on its message (W3C Trace Context), else empty.
        replay_of: the id of the dead letter that it replays, else empty.
    """

    kind: ClassVar[str] = "admitted"

    attempt: int
    waited: int
    deferrals: int
    limit: str
    traceparent: str
    replay_of: str


@dataclass(frozen=True, slots=True)
class TaskHeld(TaskEvent):
    """A task waits inside this worker.

    Attributes:
        until: wall-clock microseconds at which it asks again, or runs.
        limit: what it waits for: a limit's name, ``pause``, ``breaker``, ``claim`` (another
            delivery of it is running), or empty for a store that does not answer and a call
            inside its body.
    """

    kind: ClassVar[str] = "held"

    until: int
    limit: str


@dataclass(frozen=True, slots=True)
class TaskParked(TaskEvent):
    """A task waits in its upstream's parking lot, and its message is acknowledged.

    Attributes:
        until: wall-clock microseconds of the slot that the store named; 0 behind others.
        limit: as in :class:`TaskHeld`; empty when it was parked behind others of its lane.
        deferrals: how often it has been parked or deferred, this time included.
    """

    kind: ClassVar[str] = "parked"

    until: int
    limit: str
    deferrals: int


@dataclass(frozen=True, slots=True)
class TaskReleased(TaskEvent):
    """A task has come out of the parking lot into this worker.

    Attributes:
        waited: from its first admission decision, or from its parking if there was none.
        overdue: its time was over: it becomes a dead letter.
    """

    kind: ClassVar[str] = "released"

    waited: int
    overdue: bool


@dataclass(frozen=True, slots=True)
class TaskDeferred(TaskEvent):
    """A task's message was published again with a countdown, and acknowledged.

    Attributes:
        until: wall-clock microseconds of its slot.
        limit: as in :class:`TaskHeld`.
        deferrals: how often it has been parked or deferred, this time included.
    """

    kind: ClassVar[str] = "deferred"

    until: int
    limit: str
    deferrals: int


@dataclass(frozen=True, slots=True)
class DecisionMade(TaskEvent):
    """A worker has decided about one queued task.

    Attributes:
        took: from the pool slot that it asked with, the store's round trip included.
        verdict: the task's state afterwards, as in ``docs/state-machine.md``.
    """

    kind: ClassVar[str] = "decided"

    took: int
    verdict: str


@dataclass(frozen=True, slots=True)
class TaskStarted(TaskEvent):
    """The pool has begun a task.

    Attributes:
        late: microseconds after its slot.
    """

    kind: ClassVar[str] = "started"

    late: int


@dataclass(frozen=True, slots=True)
class TaskLate(TaskEvent):
    """A body began too late for its slot; it did not call, and the task asks again.

    Attributes:
        late: microseconds beyond what is allowed.
    """

    kind: ClassVar[str] = "late"

    late: int


@dataclass(frozen=True, slots=True)
class TaskSucceeded(TaskEvent):
    """A body has returned.

    Attributes:
        took: from its start.
    """

    kind: ClassVar[str] = "succeeded"

    took: int


@dataclass(frozen=True, slots=True)
class TaskThrottled(TaskEvent):
    """The upstream said "not now" to a task, or a call inside its body has to wait.

    Attributes:
        wait: how long the upstream is paused for it, or the call waits.
        throttles: how often in a row that has happened to the task, this time included.
    """

    kind: ClassVar[str] = "throttled"

    wait: int
    throttles: int


@dataclass(frozen=True, slots=True)
class TaskRetried(TaskEvent):
    """An attempt has failed, and the next one is published.

    Attributes:
        attempt: the failed one: Celery's ``retries``.
        wait: until the next one.
        exc_type: the exception's class.
        http_status: of the upstream's response, else 0.
    """

    kind: ClassVar[str] = "retried"

    attempt: int
    wait: int
    exc_type: str
    http_status: int


@dataclass(frozen=True, slots=True)
class TaskDied(TaskEvent):
    """A dead letter is written.

    Attributes:
        reason: from the closed list of ``docs/dead-letters.md``.
        attempt: Celery's ``retries``.
        waited: from its first admission decision.
        deferrals: how often it was parked or deferred.
        exc_type: the exception's class, else empty.
        written: to the ``database``, the ``disk`` until that answers, or ``aside``: the database
            refuses the row.
    """

    kind: ClassVar[str] = "dead"

    reason: str
    attempt: int
    waited: int
    deferrals: int
    exc_type: str
    written: str


@dataclass(frozen=True, slots=True)
class TaskRefused(TaskEvent):
    """A task's next slot is beyond its patience; its dead letter follows.

    Attributes:
        wait: until that slot.
        limit: the limit whose slot it is.
    """

    kind: ClassVar[str] = "refused"

    wait: int
    limit: str


@dataclass(frozen=True, slots=True)
class TaskDropped(TaskEvent):
    """A second delivery of a message that has run to its end was acknowledged."""

    kind: ClassVar[str] = "dropped"


@dataclass(frozen=True, slots=True)
class TaskReplayed(TaskEvent):
    """The broker has the replay of a dead letter.

    Attributes:
        dead_letter: its id.
        by: the operator.
    """

    kind: ClassVar[str] = "replayed"

    dead_letter: str
    by: str


@dataclass(frozen=True, slots=True)
class ClaimLost(TaskEvent):
    """The claim of another delivery has run out: its worker died, and whether the call was made is
    not known. The dead letter ``outcome_unknown`` follows.

    Attributes:
        attempt: Celery's ``retries``.
    """

    kind: ClassVar[str] = "claim_lost"

    attempt: int


@dataclass(frozen=True, slots=True)
class TransitionRefused(TaskEvent):
    """A task's state was to change in a way that the table of states does not allow: a fault in the
    governor.

    Attributes:
        before: its state.
        to: the state it was to have.
    """

    kind: ClassVar[str] = "transition_refused"

    before: str
    to: str


@dataclass(frozen=True, slots=True)
class LeaseExpired(Event):
    """A lease of a running call of this process ran out before it was renewed.

    Attributes:
        upstream: its upstream's name.
        holder: names the delivery, or the call.
    """

    kind: ClassVar[str] = "lease_expired"

    upstream: str
    holder: str


@dataclass(frozen=True, slots=True)
class StoreAway(Event):
    """The limiter store does not answer, or not about one upstream.

    Attributes:
        upstream: the one it does not answer about; empty: none.
        error: the exception's class.
    """

    kind: ClassVar[str] = "store_away"

    upstream: str
    error: str


@dataclass(frozen=True, slots=True)
class StoreBack(Event):
    """The limiter store answers again.

    Attributes:
        upstream: as in :class:`StoreAway`.
        away: since the first question without an answer.
    """

    kind: ClassVar[str] = "store_back"

    upstream: str
    away: int


@dataclass(frozen=True, slots=True)
class StateLost(Event):
    """The limiter store has forgotten an upstream that this worker knew there: its buckets begin
    without a burst.

    Attributes:
        upstream: its name.
    """

    kind: ClassVar[str] = "state_lost"

    upstream: str


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """This process has read limits that a person has changed.

    Attributes:
        upstream: its name.
        version: of the limits in force; grows with every change.
        changed: how many numbers and pauses of single keys differ from what is declared.
    """

    kind: ClassVar[str] = "limit_changed"

    upstream: str
    version: int
    changed: int


@dataclass(frozen=True, slots=True)
class UpstreamPaused(Event):
    """This worker has learned that an upstream is paused, or is so for longer.

    Attributes:
        upstream: its name.
        until: wall-clock microseconds.
    """

    kind: ClassVar[str] = "paused"

    upstream: str
    until: int


@dataclass(frozen=True, slots=True)
class BreakerMoved(Event):
    """This worker has learned that an upstream's breaker has another state.

    Attributes:
        upstream: its name.
        before, after: ``closed``, ``open`` or ``half_open``.
    """

    kind: ClassVar[str] = "breaker_moved"

    upstream: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class LoadShed(Event):
    """A producer was refused: too many tasks wait (``Overloaded``).

    Attributes:
        task: the type of the task that was to be published.
        waiting: tasks in the upstream's parking lot.
        bound: what it is beyond: ``max_waiting`` or ``max_wait``.
    """

    kind: ClassVar[str] = "shed"

    upstream: str
    task: str
    waiting: int
    bound: str


@dataclass(frozen=True, slots=True)
class StoreAnswered(Event):
    """One round trip to the limiter store.

    Attributes:
        call: ``admit``, ``settle``, ``park``, ``release`` or ``steer``.
        questions: how many it answered.
        took: its duration.
    """

    kind: ClassVar[str] = "store_answered"

    call: str
    questions: int
    took: int


Listener = Callable[[Event], object]


class Emitter:
    """Tells listeners of events.

    Whoever emits asks ``if events.listeners:`` first, so that an event nobody hears is not made.

    Attributes:
        listeners: those of this process. A forked child begins with none: what they write to, a
            port or a lock, is the parent's.
    """

    __slots__ = ("__weakref__", "_failed", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._failed: list[Listener] = []
        _of_this_process.add(self)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event from now on, in the thread in which it happens.

        Returns:
            what ends it.
        """
        self.listeners = (*self.listeners, listener)

        def end() -> None:
            self.listeners = tuple(one for one in self.listeners if one is not listener)

        return end

    def emit(self, event: Event) -> None:
        """Tell every listener. One that raises is logged the first time, and stops nothing."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener is anybody's code
                if not any(one is listener for one in self._failed):
                    self._failed.append(listener)
                    LOG.exception("A listener failed on the event %r", event.kind)


_of_this_process: WeakSet[Emitter] = WeakSet()


def _forked() -> None:
    for emitter in _of_this_process:
        emitter.listeners = ()


os.register_at_fork(after_in_child=_forked)
