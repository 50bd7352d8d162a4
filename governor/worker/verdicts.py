"""What the end of a body means: a table, in words at each row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state
from kombu.exceptions import OperationalError

from governor.clock import SECOND, seconds
from governor.errors import BodyDied
from governor.policy.outcome import Outcome
from governor.policy.plan import Governance
from governor.ports import Reason
from governor.worker.body_results import Again, NotNow, failure_info
from governor.worker.failures import Failure, exception_of, failure_of

_ENDED_FROM_OUTSIDE = (
    NotNow, Again, Terminated, WorkerLostError, SystemExit, KeyboardInterrupt, BodyDied,
    TimeLimitExceeded,
)  # fmt: skip
"""Ends of a body that Celery has cancelled, after which the message may be delivered again."""

_ATTEMPTS_AFTER_LOSS = 3
"""How often an idempotent task without a retry policy may lose its process."""

_WAIT_AFTER_LOSS = SECOND


@dataclass(frozen=True, slots=True)
class Ending:
    """What the dispatcher does next.

    Attributes:
        exc_info: what Celery shall be told of, where that differs from what happened.
        outcome: what the call said about its upstream.
        called: of an abandoned request, whether its call may have been made.
        late: microseconds by which the body came too late for its slot.
    """

    class Kind(Enum):
        NOT_NOW = auto()  # it did not call: wait for another admission
        AGAIN = auto()  # it failed and may be called again
        PASS = auto()  # it ended as it wanted to: Celery's business
        LEAVE = auto()  # Celery announces it in another way, which comes back here
        ABANDON = auto()  # leave it unacknowledged: the broker hands it out again
        DEAD = auto()  # it will not run again by itself

    kind: Kind
    exc_info: Any
    reason: Reason | None = None
    wait: int = 0
    pause: int | None = None
    outcome: Outcome = Outcome.IGNORED
    called: bool = True
    late: int = 0


def judge(request: Any, exc_info: Any, governance: Governance) -> Ending:
    """Read one end of one body."""
    kind = Ending.Kind
    exc = exception_of(exc_info)
    retries = int(request.request_dict.get("retries") or 0)
    if request._already_cancelled and isinstance(exc, _ENDED_FROM_OUTSIDE):
        # The connection was lost or the worker shuts down cold: the message comes back. Told of
        # these ends, Celery would acknowledge it.
        return Ending(kind.ABANDON, exc_info, called=not isinstance(exc, NotNow))
    failure = failure_of(exc_info)
    if failure is not None:
        return _decided(failure, exc, exc_info)
    match exc:
        case NotNow():
            throttled = Outcome.IGNORED if exc.pause is None else Outcome.THROTTLED
            return Ending(
                kind.NOT_NOW, exc_info, wait=exc.wait or 0, pause=exc.pause, outcome=throttled,
                late=exc.late,
            )  # fmt: skip
        case Again():
            # Without what was decided beside it; Celery would take it for its own retry.
            return Ending(kind.AGAIN, exc_info, wait=exc.wait, outcome=Outcome.FAILED)
        case Retry() | Ignore():
            return Ending(kind.PASS, exc_info)
        case Reject():
            return _rejected(exc, exc_info, governance)
        case TimeLimitExceeded():
            return Ending(kind.DEAD, exc_info, Reason.HARD_TIME_LIMIT)
        case WorkerLostError() | SystemExit() | KeyboardInterrupt():
            if state.should_terminate not in {None, False}:
                return Ending(kind.ABANDON, exc_info)
            return _lost(exc, exc_info, governance, retries)
        case BodyDied():
            memory = exc.kind == "MemoryError"
            return Ending(
                kind.DEAD, exc_info, Reason.MEMORY_ERROR if memory else Reason.SYSTEM_EXIT
            )
        case MemoryError():
            # Told of it, Celery would raise it again and end the whole worker.
            return Ending(kind.DEAD, failure_info(BodyDied("MemoryError")), Reason.MEMORY_ERROR)
        case Terminated():
            return Ending(kind.LEAVE, exc_info)
    # It happened before Celery called the task at all.
    reason = Reason.NOT_RETRYABLE if governance.idempotent else Reason.NOT_IDEMPOTENT
    return Ending(kind.DEAD, exc_info, reason)


def _decided(failure: Failure, exc: BaseException, exc_info: Any) -> Ending:
    """Make a verdict of the decision beside the body, whatever came after the body."""
    if failure.wait is not None:
        if not isinstance(exc, Again):
            when = seconds(failure.wait)
            exc_info = failure_info(Again(failure.facts.exc_type, when=when, wait=failure.wait))
        return Ending(Ending.Kind.AGAIN, exc_info, wait=failure.wait, outcome=failure.outcome)
    if failure.reason is None:
        return Ending(Ending.Kind.PASS, exc_info, outcome=failure.outcome)
    if isinstance(exc, MemoryError | Reject):
        # Of the one Celery would end the worker, and requeue for the other.
        exc_info = failure_info(BodyDied(type(exc).__name__))
    return Ending(
        Ending.Kind.DEAD, exc_info, failure.reason, pause=failure.pause, outcome=failure.outcome
    )


def _rejected(exc: Reject, exc_info: Any, governance: Governance) -> Ending:
    if exc.requeue and governance.idempotent:
        return Ending(Ending.Kind.LEAVE, exc_info)
    # Delivered again, its call could happen twice.
    exc.requeue = False
    reason = Reason.REJECTED
    if isinstance(exc.reason, OperationalError):
        # Task.retry() could not publish; Celery would drop the task here.
        reason = Reason.DEFER_PUBLISH_FAILED
    return Ending(Ending.Kind.DEAD, exc_info, reason)


def _lost(exc: BaseException, exc_info: Any, governance: Governance, retries: int) -> Ending:
    if not governance.idempotent:
        return Ending(Ending.Kind.DEAD, exc_info, Reason.OUTCOME_UNKNOWN)
    attempts = governance.retry.attempts if governance.retry else _ATTEMPTS_AFTER_LOSS
    if retries + 1 < attempts:
        again = Again(exc=exc, when=seconds(_WAIT_AFTER_LOSS), wait=_WAIT_AFTER_LOSS)
        return Ending(Ending.Kind.AGAIN, failure_info(again), wait=_WAIT_AFTER_LOSS)
    exited = isinstance(exc, SystemExit)
    return Ending(Ending.Kind.DEAD, exc_info, Reason.SYSTEM_EXIT if exited else Reason.WORKER_LOST)
