"""May this dead letter be sent again? Decided from facts, said with its why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from governor.ports import Reason


class Verdict(StrEnum):
    """Whether a replay is allowed."""

    SAFE = "safe"
    NEEDS_CONFIRMATION = "needs_confirmation"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """The verdict, and the sentence that explains it to the operator."""

    verdict: Verdict
    why: str


_NOT_A_TASK = {
    Reason.UNDECODABLE: "the body could not be decoded: the same bytes would die again",
    Reason.INVALID_MESSAGE: "the message is not a task message: the same bytes would die again",
}
# Deaths in which the task body was never entered.
_NEVER_STARTED = {
    Reason.UNKNOWN_TASK: "no worker knew the task, so it never ran",
    Reason.EXPIRED: "it expired before it ran; the replay carries no expiry",
    Reason.DEFERRAL_BUDGET_EXHAUSTED: "it waited too long and never ran",
    Reason.DEFER_PUBLISH_FAILED: "its wait could not be published and it never ran",
}


def judge(
    reason: Reason,
    *,
    idempotent: bool | None,
    delivery: int,
    names_task: bool,
    payload_problem: str | None,
) -> ReplayVerdict:
    """The verdict on one death.

    Args:
        delivery: the attempt at death; above 0 an earlier attempt has run.
        names_task: the message has a ``task`` header (Celery's protocol 2).
        payload_problem: why the stored message is not exact; ``None`` when it is.
    """
    if payload_problem is not None:
        return ReplayVerdict(Verdict.IMPOSSIBLE, payload_problem)
    if reason in _NOT_A_TASK:
        return ReplayVerdict(Verdict.IMPOSSIBLE, _NOT_A_TASK[reason])
    if not names_task:
        return ReplayVerdict(Verdict.IMPOSSIBLE, "the message has no task header (protocol 2)")
    if idempotent:
        return ReplayVerdict(Verdict.SAFE, "the task type is declared idempotent")
    if reason in _NEVER_STARTED and delivery == 0:
        return ReplayVerdict(Verdict.SAFE, _NEVER_STARTED[reason])
    return ReplayVerdict(
        Verdict.NEEDS_CONFIRMATION,
        "the call may have happened, and the task type is "
        + ("declared not idempotent" if idempotent is False else "not declared idempotent"),
    )
