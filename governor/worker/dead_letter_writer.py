"""Writes dead letters from the worker: to the database, else to disk, and only then lets the
message go."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from governor.clock import SECOND, seconds
from governor.deadletter.errors import RowRefused, SpillFailed
from governor.errors import DatabaseUnavailable
from governor.governor import Governor
from governor.log_lines import LOG
from governor.messages.header import Attempt, Header, is_whole, work_id
from governor.policy.failure import ExceptionFacts, exception_facts
from governor.ports import Death, MessageCopy, Reason
from governor.redaction.argument_reprs import masks_of, shown
from governor.worker.body_results import RUN_KEY
from governor.worker.claim_lookup import ClaimLookup
from governor.worker.event_loop import Loop
from governor.worker.failures import attempt_of, exception_of, failure_of
from governor.worker.publisher import copy_of, was_redelivered
from governor.worker.salvage import bare_death, reduced
from governor.worker.serial_executor import SerialExecutor

_DATABASE_AGAIN = 5 * SECOND
"""How long a database that did not answer is not asked: the spill is faster than its timeout."""

_TRACE = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{32})-")

_WRITE_AGAIN = 5 * SECOND

_LAST_WRITE = 1.0
"""Seconds for which the writing thread's end is waited for."""


class DeadLetterWriter:
    """Dead letters of one worker, written in order by a thread of their own."""

    def __init__(self, governor: Governor, loop: Loop) -> None:
        self._governor = governor
        self._clock = governor.clock
        self._loop = loop
        self._outbox = SerialExecutor("dead-letters", loop)
        self._claims = ClaimLookup(governor)
        self._away_until = 0
        self._drain_planned = False
        self._plan_drain(0)

    def hold(
        self, request: Any, reason: Reason, why: str | None, exc_info: Any,
        then: Callable[[], None],
    ) -> None:  # fmt: skip
        """Write the death of a request's task, then call ``then`` on the loop."""
        copy = copy_of(request.message)
        now = self._clock.wall()
        whole = partial(self._death_of, request, copy, reason, why, exc_info, now)
        self._write(partial(_made, whole, copy, reason, now, request.task.name), then)

    def hold_message(
        self, message: Any, reason: Reason, exc: BaseException | None, then: Callable[[], None]
    ) -> None:
        """Write the death of a message that never became a request."""
        copy = copy_of(message)
        now = self._clock.wall()
        redelivered = was_redelivered(message)
        whole = partial(self._death_of_message, copy, reason, exc, now, redelivered)
        self._write(partial(_made, whole, copy, reason, now, None), then)

    def resolve(self, task_id: str) -> None:
        """A replay succeeded."""
        now = self._clock.wall()

        def report(error: Exception | None) -> None:
            if error is not None:
                LOG.error("Replay %s succeeded, but its dead letter still says replayed", task_id)

        self._outbox.submit(
            partial(self._governor.dead_letters.replay_succeeded, task_id, now), report
        )

    def idle(self) -> bool:
        """Whether every death is written."""
        return self._outbox.idle()

    def close(self) -> None:
        """Write what there is to write, and nothing more."""
        self._outbox.close(_LAST_WRITE)

    def _write(self, make: Callable[[], Death], then: Callable[[], None]) -> None:
        def done(error: Exception | None) -> None:
            if error is None:
                self._follow(then)
                return
            LOG.critical(
                "A dead letter could be written neither to the database nor to disk (%s); its "
                "message stays unacknowledged", error,
            )  # fmt: skip
            self._loop.at(self._clock.monotonic() + _WRITE_AGAIN, submit)

        def submit() -> None:
            self._outbox.submit(partial(self._record, make), done)

        submit()

    def _follow(self, then: Callable[[], None]) -> None:
        """Do what follows a death that is written, until it is done."""
        try:
            then()
        except Exception:
            LOG.exception("A dead letter is written, and its message is not acknowledged yet")
            self._loop.at(self._clock.monotonic() + _WRITE_AGAIN, partial(self._follow, then))

    def _record(self, make: Callable[[], Death]) -> None:
        death = make()
        now = self._clock.monotonic()
        if now >= self._away_until:
            try:
                self._to_database(death)
            except RowRefused as exc:
                path = self._to_disk(self._governor.spill.set_aside, death)
                LOG.error("%s. It is set aside: %s", exc, path)
                return
            except DatabaseUnavailable as exc:
                self._away_until = self._clock.monotonic() + _DATABASE_AGAIN
                LOG.error("%s Dead letters go to %s", exc, self._governor.settings.spill_dir)
            else:
                LOG.warning("Task %s[%s] is dead: %s", death.task_name, death.task_id,
                             death.reason.value)  # fmt: skip
                return
        self._to_disk(self._governor.spill.append, death)
        self._loop.soon(partial(self._plan_drain, _DATABASE_AGAIN))

    def _to_database(self, death: Death) -> None:
        """Write the row; if its content is in the way, what can be kept of it.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        record = self._governor.dead_letters.record
        try:
            record(death)
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            _complain(death, exc)
            record(reduced(death, exc))

    def _to_disk(self, keep: Callable[[Death], Path], death: Death) -> Path:
        """Write the death to disk; if its content is in the way, what can be kept of it.

        Raises:
            SpillFailed: the disk is full or cannot be written.
        """
        try:
            return keep(death)
        except SpillFailed:
            raise
        except Exception as exc:
            _complain(death, exc)
            return keep(reduced(death, exc))

    def _plan_drain(self, delay: int) -> None:
        if not self._drain_planned:
            self._drain_planned = True
            self._loop.at(self._clock.monotonic() + delay, self._drain)

    def _drain(self) -> None:
        def done(error: Exception | None) -> None:
            self._drain_planned = False
            if error is not None:
                self._plan_drain(_DATABASE_AGAIN)

        self._outbox.submit(self._drain_spill, done)

    def _drain_spill(self) -> None:
        spill = self._governor.spill
        if not spill.pending():
            return
        drained = spill.drain(self._governor.dead_letters)
        LOG.warning("%d spilled dead letters written to the database", drained.recorded)
        for line in drained.said:
            LOG.error("A spilled dead letter is set aside: %s", line)

    def _death_of(  # noqa: PLR0917 - a partial, filled in one place
        self, request: Any, copy: MessageCopy, reason: Reason, why: str | None, exc_info: Any,
        now: int,
    ) -> Death:  # fmt: skip
        facts = _facts(exc_info, request.task.name)
        delivery = int(request.request_dict.get("retries") or 0)
        own = "" if RUN_KEY in request.request_dict else request.token
        began = self._claims.began(
            reason, copy, request.task.name, request.id, delivery, own,
            was_redelivered(request.message),
        )  # fmt: skip
        call = request.call
        header = Header() if call is None else call.header
        known = delivery
        log = header.attempts
        if exc_info is not None:
            log, known = (*log, attempt_of(exc_info, now)), delivery + 1
        elif RUN_KEY in request.request_dict:
            # Its process said nothing any more.
            log, known = (*log, Attempt(now, "")), delivery + 1
        governance = self._governor.governance(request.task.name)
        given = _sequence(request.args), _mapping(request.kwargs)
        args, kwargs = shown(
            self._governor.redactor, *given, governance.plan.names() if governance else (),
            masks_of(self._governor.app, copy.headers, *given),
        )  # fmt: skip
        return Death(
            reason=reason,
            message=copy,
            dead_at=now,
            task_id=request.id,
            task_name=request.task.name,
            delivery=delivery,
            began=began,
            upstream=governance.plan.upstream.name if governance else None,
            limit_keys=[] if call is None else [charge.bucket for charge in call.charges],
            tenant=header.fair,
            idempotent=governance.idempotent if governance else None,
            idempotency_key=_idempotency_key(copy, request.id),
            exc_type=facts.exc_type,
            exc_message=facts.exc_message or why,
            exc_chain=facts.exc_chain,
            last_frame=facts.last_frame,
            http_status=facts.http_status,
            traceback=facts.traceback,
            args_redacted=f"{args} {kwargs}",
            deferrals=header.deferrals,
            waited_seconds=seconds(max(0, now - header.first)) if header.first else 0.0,
            hostname=request.hostname,
            first_failed_at=log[0].at if log and is_whole(log, known) else None,
            trace_id=_trace_id(copy.headers),
            attempt_log=_lines(log, exc_info),
        )

    def _death_of_message(
        self, copy: MessageCopy, reason: Reason, exc: BaseException | None, now: int,
        redelivered: bool,
    ) -> Death:  # fmt: skip
        facts = exception_facts(type(exc) if exc else None, exc, None)
        headers = copy.headers
        task_id, task = _text(headers.get("id")), _text(headers.get("task"))
        delivery = _retries(headers.get("retries"))
        return Death(
            reason=reason,
            message=copy,
            dead_at=now,
            task_id=task_id,
            task_name=task,
            delivery=delivery,
            began=self._claims.began(reason, copy, task, task_id, delivery, "", redelivered),
            exc_type=facts.exc_type,
            exc_message=facts.exc_message,
            exc_chain=facts.exc_chain,
            trace_id=_trace_id(headers),
        )


def _made(
    make: Callable[[], Death], copy: MessageCopy, reason: Reason, now: int, task_name: str | None
) -> Death:
    """Make a death; when that fails, because of code of the task's, one of its message alone."""
    try:
        return make()
    except BaseException as exc:
        LOG.exception("A dead letter is written without its facts")
        return bare_death(copy, reason, exc, now, task_name)


def _complain(death: Death, error: Exception) -> None:
    LOG.error("Task %s[%s]: of its dead letter is written what can be kept; the whole raised %s",
               death.task_name, death.task_id, type(error).__name__)  # fmt: skip


def _idempotency_key(copy: MessageCopy, task_id: str) -> str:
    work = work_id(task_id, copy.headers.get("replaced_task_nesting"))
    return Header.from_message(copy.headers).key_of(work)


def _lines(log: Sequence[Attempt], exc_info: Any) -> list[dict[str, object]]:
    """The attempt log for people; its last line says why there is no other."""
    lines = [_line(attempt) for attempt in log]
    told = None if exc_info is None else failure_of(exc_info)
    if told is not None:
        lines[-1]["said"] = told.detail
    return lines


def _line(attempt: Attempt) -> dict[str, object]:
    line: dict[str, object] = {"at": attempt.at}
    if attempt.exc_type:
        line["exc_type"] = attempt.exc_type
    if attempt.http_status:
        line["http_status"] = attempt.http_status
    if attempt.wait:
        line["wait_seconds"] = seconds(attempt.wait)
    return line


def _trace_id(headers: Mapping[str, Any]) -> str | None:
    """The trace that a tracing library's headers belong to: W3C's, or Sentry's."""
    for name in ("traceparent", "sentry-trace"):
        said = headers.get(name)
        if isinstance(said, str) and (found := _TRACE.match(said)):
            return found[1]
    return None


def _facts(exc_info: Any, task_name: str) -> ExceptionFacts:
    if exc_info is None:
        return exception_facts(None, None, None)
    told = failure_of(exc_info)
    if told is not None:
        return told.facts
    exc = exception_of(exc_info)
    return exception_facts(type(exc), exc, exc_info.traceback, task_name=task_name)


def _sequence(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else ()


def _mapping(value: Any) -> Any:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _retries(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
