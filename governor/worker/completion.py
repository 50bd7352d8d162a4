"""The end of a body, and the next step after each kind of end.

==================================================  ==============================================
it returned                                         gone: claim finished, then acknowledged
it came too late for its slot                       asks again at once, on what it has paid
its upstream said "not now"                         upstream paused; asks again, no attempt spent
a call inside it has to wait                        waits until then, no attempt spent
it failed, and its policy says "again"              next attempt published, then acknowledged
it failed for good                                  dead letter, with the reason its process sent
Celery's ``Ignore``, or a ``Retry`` it has sent     gone, as Celery ends it
``Reject``                                          requeued if idempotent, else dead letter
it would have ended the worker, or its time is up   dead letter
its process was lost                                idempotent: next attempt, else dead letter
a person terminated it                              as Celery announces it
Celery cancelled it: connection lost, cold stop     returned: its message is handed out again
==================================================  ==============================================

The process of a body decides whether a failure is tried again, where the exception is whole; see
:mod:`governor.worker.failures`. Only of a process that was lost nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError

from governor.clock import SECOND, micros, seconds
from governor.errors import BodyDied
from governor.events import TaskSucceeded
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.outcome import Outcome
from governor.policy.plan import Governance
from governor.policy.settlement import ClaimAction
from governor.ports import Reason
from governor.worker.body_results import Again, NotNow, failure_info
from governor.worker.event_loop import guarded
from governor.worker.failures import Failure, attempt_of, exception_of, failure_of, without_policy
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.ownership import Ownership
from governor.worker.parking_out import ParkingOut
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.resending import Resending
from governor.worker.waiting import Waiting

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
    """The next step after one end of one body.

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
    """Read one end of one body: the rows of the table above, except that it returned."""
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
            if state.should_terminate is not None and state.should_terminate is not False:
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
    return Ending(kind.DEAD, exc_info, without_policy(governance)[0])


def _decided(failure: Failure, exc: BaseException, exc_info: Any) -> Ending:
    """Read the decision that the body's process sent, whatever came after the body."""
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


class Completion:
    """Ends of one worker's bodies. All of it happens on its loop, but for a success."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        lifecycle: Lifecycle,
        recorder: Recorder,
        ownership: Ownership,
        parking_out: ParkingOut,
        resending: Resending,
        waiting: Waiting,
    ) -> None:
        self._governor = governor
        self._admission = governor.admission
        self._clock = governor.clock
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._ownership = ownership
        self._parking_out = parking_out
        self._resending = resending
        self._waiting = waiting

    def succeeded(self, request: GovernedRequest) -> None:
        """Record that the body returned; called before its message is acknowledged, from any
        thread."""
        try:
            call = request.call
            if call is not None:
                self._admission.succeeded(call)
            self._recorder.settle(request, ClaimAction.FINISH, outcome=Outcome.SUCCESS)
            if call is not None and call.header.replay_of:
                self._recorder.resolve(request)
        finally:
            self._lifecycle.move(request, RequestState.GONE)
            if self._lifecycle.events.listeners:
                guarded(partial(self._tell_success, request))

    def _tell_success(self, request: GovernedRequest) -> None:
        now = self._clock.wall()
        began = micros(request.time_start) if request.time_start else now
        self._lifecycle.tell(request, TaskSucceeded, max(now - began, 0))

    def failed(self, request: GovernedRequest, exc_info: Any, celery: Callable[..., None]) -> None:
        """Do what follows when the body, or its process, ended with an exception."""
        try:
            self._follow(request, exc_info, celery)
        except Exception as exc:
            LOG.exception("Task %s[%s]: its end was not understood", request.name, request.id)
            self._ownership.stumbled(request, exc)

    def timed_out(
        self, request: GovernedRequest, timeout: float, celery: Callable[[], None]
    ) -> None:
        """Write the dead letter of a task whose process was killed at its hard time limit."""
        why = f"hard time limit of {timeout} s"
        self._recorder.bury(request, Reason.HARD_TIME_LIMIT, why, None, celery)

    def revoked(self, request: GovernedRequest, expired: bool, celery: Callable[[], None]) -> None:
        """End a task that expired, which is a dead letter, or that a person revoked, which is that
        person's own record."""
        if expired:
            why = "it expired while it waited"
            self._recorder.bury(request, Reason.EXPIRED, why, None, celery)
        elif request.state is not RequestState.DYING:
            self._recorder.settle(request, ClaimAction.FINISH)
            self._recorder.finish(request, celery)

    def _follow(self, request: GovernedRequest, exc_info: Any, celery: Callable[..., None]) -> None:
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        ending = judge(request, exc_info, governance)
        match ending.kind:
            case Ending.Kind.NOT_NOW:
                self._waiting.ask_again(
                    request, ending.pause, ending.wait, ending.outcome, ending.late
                )
            case Ending.Kind.AGAIN:
                attempt = replace(attempt_of(exc_info, self._clock.wall()), wait=ending.wait)
                self._resending.retry(
                    request, attempt, ending.outcome, partial(celery, ending.exc_info)
                )
            case Ending.Kind.PASS:
                self._recorder.settle(request, ClaimAction.FINISH, outcome=ending.outcome)
                self._recorder.finish(request, partial(celery, ending.exc_info))
            case Ending.Kind.LEAVE:
                self._parking_out.upkeep.abandon(request)
                celery(ending.exc_info)
                if request.state is RequestState.RUNNING:
                    self._return(request, called=True)
            case Ending.Kind.ABANDON:
                self._parking_out.upkeep.abandon(request)
                self._return(request, called=ending.called)
            case Ending.Kind.DEAD:
                assert ending.reason is not None
                self._recorder.bury(
                    request, ending.reason, None, exc_info, partial(celery, ending.exc_info),
                    ending.outcome, ending.pause or 0,
                )  # fmt: skip
                if ending.pause and request.call is not None:
                    self._waiting.recall(request.call.upstream)

    def _return(self, request: GovernedRequest, *, called: bool) -> None:
        """Leave a request unacknowledged: the broker, or the lot, hands its message out again.

        A claim is given back only where no call was made; else the next delivery finds it.
        """
        self._recorder.settle(request, ClaimAction.RELEASE, keeps_claim=called)
        self._lifecycle.move(request, RequestState.RETURNED)
        task_ready(request)
