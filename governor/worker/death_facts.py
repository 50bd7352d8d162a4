"""Facts that a dead letter tells, gathered from a request, its exception and its message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from governor.clock import seconds
from governor.governor import Governor
from governor.messages.header import Attempt, Header, is_whole, work_id
from governor.messages.message import was_redelivered
from governor.policy.failure import ExceptionFacts, exception_facts
from governor.ports import Death, MessageCopy, Reason
from governor.redaction.argument_reprs import masks_of, shown
from governor.worker.body_results import RUN_KEY
from governor.worker.claim_lookup import ClaimLookup
from governor.worker.failures import attempt_of, exception_of, failure_of

_TRACE = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{32})-")


class DeathFacts:
    """Facts of one worker's deaths. Gathered on the writing thread: some of it asks the store."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._claims = ClaimLookup(governor)

    def of_request(  # noqa: PLR0917 - a partial, filled in one place
        self, request: Any, copy: MessageCopy, reason: Reason, why: str | None, exc_info: Any,
        now: int,
    ) -> Death:  # fmt: skip
        """Tell the death of a request's task."""
        facts = _facts(exc_info, request.task.name)
        delivery = int(request.request_dict.get("retries") or 0)
        own = "" if RUN_KEY in request.request_dict else request.delivery.token
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

    def of_message(
        self, copy: MessageCopy, reason: Reason, exc: BaseException | None, now: int,
        redelivered: bool,
    ) -> Death:  # fmt: skip
        """Tell the death of a message that never became a request."""
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


def _idempotency_key(copy: MessageCopy, task_id: str) -> str:
    work = work_id(task_id, copy.headers.get("replaced_task_nesting"))
    return Header.from_message(copy.headers).key_of(work)


def _lines(log: Sequence[Attempt], exc_info: Any) -> list[dict[str, object]]:
    """Render the attempt log for people; its last line says why no attempt follows."""
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
    """Read the trace id from the headers of a tracing library: W3C's, or Sentry's."""
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
