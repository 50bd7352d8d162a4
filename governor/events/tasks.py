"""Events of tasks: one for each thing that happens to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
        took: the decision, from the pool slot that the task asked with; the store's round trip
            included.
    """

    kind: ClassVar[str] = "admitted"

    attempt: int
    waited: int
    deferrals: int
    limit: str
    traceparent: str
    replay_of: str
    took: int


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
