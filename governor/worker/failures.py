"""Facts of a failure, told by the process in which it happened.

On its way to the worker's main process an exception is pickled, which leaves of some only their
name, and of all no traceback. So each failure is read, and decided about, beside the body; the
result travels on billiard's ``ExceptionInfo``. The exception itself reaches results, handlers
and signals as Celery carries it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Task
from celery.app.trace import TraceInfo, trace_ok_t
from celery.states import FAILURE, RETRY
from celery.utils.serialization import UnpickleableExceptionWrapper

from governor.admission import nested_calls
from governor.clock import micros, seconds
from governor.errors import BodyDied, NotAdmitted, StoreUnavailable
from governor.foreign import attribute, is_from_outside, quietly, text_of
from governor.governor import Governor
from governor.messages.header import NAME, Attempt, Header, work_id
from governor.policy.failure import ExceptionFacts, causes, facts_of, http_status, type_name
from governor.policy.outcome import Outcome, outcome_of
from governor.policy.plan import Governance
from governor.policy.retry import LONGEST_WAIT, GiveUp, RetryIn
from governor.policy.retry_after import pause_of, throttled_from_exception
from governor.ports import Reason
from governor.worker.body_results import RUN_KEY, STORE_AGAIN, Again, NotNow, failure_info

_ATTRIBUTE = "_governor_failure"
_FAILURE, _RAISED, _RETURNED = "failure", "raised", "returned"

_NOT_STORED = "the body succeeded; its result could not be stored or handed on: "


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed execution: what happened, and what follows. Texts and numbers only.

    Attributes:
        at: when, in wall microseconds.
        outcome: what the call said about its upstream.
        wait: microseconds until the next attempt; ``None`` if there is none of ours.
        reason: why there is none at all; ``None`` where Celery has sent one.
        detail: what said so, in words.
        pause: microseconds for which the upstream asked everyone to stay away, though this task
            may not wait for that.
    """

    facts: ExceptionFacts
    at: int
    outcome: Outcome
    wait: int | None
    reason: Reason | None
    detail: str
    pause: int | None = None


class Tracer:
    """Descriptor of the function by which Celery runs a task; it reports how a run ended."""

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return None if task is None else task.__dict__.get("__trace__")

    def __set__(self, task: Any, trace: Any) -> None:
        task.__dict__["__trace__"] = None if trace is None else _telling(task, trace)


def decide(  # noqa: PLR0917 - called in one place
    task_name: str, governance: Governance, exc: BaseException, request: Any, admitted: Any,
    calls: nested_calls.NestedCalls, now: int,
) -> Failure | NotNow:  # fmt: skip
    """Read what the body raised, and decide what follows: the only place where that is done."""
    throttled = throttled_from_exception(exc, now)
    restartable = governance.idempotent or not calls.made
    pause = None
    if throttled is not None:
        told = isinstance(throttled, NotAdmitted) or calls.was_told(exc)
        pause = None if told else pause_of(throttled, int(admitted["throttles"]))
        if restartable:
            return NotNow(wait=pause_of(throttled, 0)) if told else NotNow(pause)
    if restartable and isinstance(exc, StoreUnavailable):
        return NotNow(wait=STORE_AGAIN)
    facts = facts_of(exc, task_name=task_name)
    if not isinstance(exc, Exception) or isinstance(exc, MemoryError):
        memory = isinstance(exc, MemoryError)
        reason = Reason.MEMORY_ERROR if memory else Reason.SYSTEM_EXIT
        return Failure(facts, now, Outcome.IGNORED, None, reason, "it would have ended the worker")
    if not governance.idempotent or governance.retry is None:
        reason, why = without_policy(governance)
        return Failure(facts, now, outcome_of(exc), None, reason, why, pause)
    attempt = int(request.retries or 0) + 1
    elapsed = max(0, now - int(admitted["began"]))
    match governance.retry.decide(exc, attempt=attempt, elapsed=elapsed):
        case RetryIn(wait):
            outcome = outcome_of(exc, retryable=True)
            return Failure(facts, now, outcome, wait, None, f"again in {seconds(wait):g} s")
        case GiveUp(said, why):
            outcome = outcome_of(exc, retryable=said == "retries_exhausted")
            return Failure(facts, now, outcome, None, Reason(said), why)


def returned(admitted: Any) -> None:
    """Note that the body has returned."""
    admitted[_RETURNED] = True


def raised(admitted: Any, exc: BaseException, failure: Failure) -> BaseException | None:
    """Note a failure beside its body; return what Celery has to see instead of ``exc``."""
    admitted[_FAILURE], admitted[_RAISED] = failure, id(exc)
    if failure.wait is not None:
        when, wait = seconds(failure.wait), failure.wait
        again = quietly(lambda: Again(exc=exc, when=when, wait=wait), None)
        return again or Again(failure.facts.exc_type, when=when, wait=wait)
    if failure.reason in {Reason.MEMORY_ERROR, Reason.SYSTEM_EXIT}:
        text = text_of(exc.code if isinstance(exc, SystemExit) else exc)
        return BodyDied(type(exc).__name__, text or "")
    return None


def failure_of(exc_info: Any) -> Failure | None:
    """Return what the body's process told of its failure, if it told anything."""
    for carrier in (exc_info, exception_of(exc_info)):
        found = quietly(lambda carrier=carrier: vars(carrier).get(_ATTRIBUTE), None)  # type: ignore[misc]
        if isinstance(found, Failure):
            return found
    return None


def exception_of(exc_info: Any) -> BaseException:
    """Take the exception out of what billiard wraps it in to carry its traceback."""
    exc = exc_info.exception
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc  # type: ignore[no-any-return]


def attempt_of(exc_info: Any, now: int) -> Attempt:
    """Make one line of the attempt log."""
    told = failure_of(exc_info)
    if told is None:
        return Attempt(now, type_name(type(exception_of(exc_info))))
    facts = told.facts
    return Attempt(told.at, facts.exc_type or "", facts.http_status or 0, told.wait or 0)


def with_attempt(request: Any, exc: Any, now: int, countdown: Any) -> Any:
    """Make the governor's header of an attempt that Celery sends, with a line about this one.
    Celery takes an exception, a class of one, or a text."""
    known = getattr(request, NAME, None)
    kind = exc if isinstance(exc, type) else type(exc)
    if not issubclass(kind, BaseException):
        return known
    header = Header.from_message({NAME: known})
    if header == Header():
        # Published where nothing is known of the governor.
        nesting = getattr(request, "replaced_task_nesting", None)
        header = header._replace(idem=work_id(str(request.id), nesting))
    chain = () if exc is kind else causes(exc)
    status = next(filter(None, map(http_status, chain)), 0)
    wait = countdown if isinstance(countdown, int | float) and 0 < countdown < LONGEST_WAIT else 0
    attempt = Attempt(now, type_name(kind), status, micros(wait))
    return header.failed(attempt).to_message()


def _telling(task: Any, trace: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``trace``, which Celery calls: the end that it reports tells what is known of a
    failure."""

    def traced(uuid: Any, args: Any, kwargs: Any, request: Any = None) -> Any:
        admitted = request.get(RUN_KEY) if isinstance(request, dict) else None
        if not isinstance(admitted, dict):
            return trace(uuid, args, kwargs, request)
        try:
            ended = trace(uuid, args, kwargs, request)
        except Exception as exc:
            # What comes after the body failed, as a result backend that is away.
            _attach(exc, admitted.get(_FAILURE))
            raise
        except BaseException as exc:
            if is_from_outside(exc) or _FAILURE not in admitted:
                raise
            # Celery prints exceptions, which runs their code.
            died = BodyDied(type(exc).__name__)
            info = failure_info(died)
            _attach(info, admitted[_FAILURE])
            return trace_ok_t(info, TraceInfo(FAILURE, died), 0.0, None)
        if ended.info is None:
            return ended
        failure = quietly(lambda: _told(task, ended.info, admitted), None)
        if failure is not None and not _pickles(ended.retval):
            # billiard would tell the main process that, and nothing else.
            ended = ended._replace(retval=failure_info(_named(ended.info.retval)))
        _attach(ended.retval, failure)
        return ended

    return traced


def _pickles(info: Any) -> bool:
    return quietly(lambda: bool(pickle.dumps(info)), False)


def _named(exc: BaseException) -> BaseException:
    """Wrap an exception that cannot be pickled as Celery does."""
    kind = type(exc)
    plain: BaseException = UnpickleableExceptionWrapper(
        kind.__module__, kind.__name__, (), kind.__name__
    )
    return quietly(
        lambda: UnpickleableExceptionWrapper.from_exception(exc).with_traceback(None), plain
    )


def _attach(carrier: Any, failure: Failure | None) -> None:
    if failure is not None and isinstance(carrier, ExceptionInfo | Exception):
        quietly(lambda: carrier.__dict__.__setitem__(_ATTRIBUTE, failure), None)


def _told(task: Any, end: TraceInfo, admitted: Any) -> Failure | None:
    """Describe a failure after Celery's own retries and the storing of the result."""
    failure: Failure | None = admitted.get(_FAILURE)
    exc = end.retval
    if end.state == RETRY:
        return failure if isinstance(exc, Again) else _sent_again_by_celery(task, exc)
    if end.state != FAILURE or not isinstance(exc, BaseException):
        return None
    if failure is None or failure.wait is not None:
        failure = _beside_the_body(task, exc, returned=_RETURNED in admitted)
    elif id(exc) != admitted[_RAISED] and not isinstance(exc, BodyDied):
        # Made into another exception on its way out.
        failure = replace(failure, facts=facts_of(exc, task_name=task.name))
    if _given_back_by_celery(exc):
        return replace(failure, reason=Reason.RETRIES_EXHAUSTED, detail="Celery's retries are used")
    return failure


def _sent_again_by_celery(task: Any, retry: BaseException) -> Failure | None:
    """Describe a failure that Celery's own retry follows, for the upstream's breaker."""
    exc = retry.__cause__ or retry.__context__ or attribute(retry, "exc")
    if not isinstance(exc, BaseException):
        return None
    now = Governor.of(task.app).clock.wall()
    facts = facts_of(exc, task_name=task.name)
    return Failure(facts, now, outcome_of(exc), None, None, "Celery tries it again")


def _beside_the_body(task: Any, exc: BaseException, *, returned: bool) -> Failure:
    governor = Governor.of(task.app)
    governance = governor.governance(task.name)
    assert governance is not None
    facts, now = facts_of(exc, task_name=task.name), governor.clock.wall()
    if returned:
        facts = replace(facts, exc_message=f"{_NOT_STORED}{facts.exc_message}")
        why = "another call would be made in vain"
        return Failure(facts, now, Outcome.SUCCESS, None, Reason.NOT_RETRYABLE, why)
    reason, why = without_policy(governance)
    return Failure(facts, now, Outcome.IGNORED, None, reason, why)


def without_policy(governance: Governance) -> tuple[Reason, str]:
    """Say why a failure that no policy was asked about is not tried again."""
    if not governance.idempotent:
        return Reason.NOT_IDEMPOTENT, "another attempt could make its call twice"
    return Reason.NOT_RETRYABLE, "no retry policy names it"


def _given_back_by_celery(exc: BaseException) -> bool:
    """Tell whether ``Task.retry`` raised ``exc`` because no retry is left."""
    tb = exc.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code is Task.retry.__code__:
            inner = tb.tb_next
            # The next attempt could not even be composed.
            broken = Task.signature_from_request.__code__
            return inner is None or inner.tb_frame.f_code is not broken
        tb = tb.tb_next
    return False
