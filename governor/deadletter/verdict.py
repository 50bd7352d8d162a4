"""May this dead letter be sent again? Decided from facts, said with its why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from governor.ports import Reason


class Verdict(StrEnum):
    """The verdict on a replay."""

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
_NEVER_STARTED = {
    Reason.UNKNOWN_TASK: "no worker knew the task, so it never ran",
    Reason.EXPIRED: "it expired before it ran; the replay carries no expiry",
    Reason.DEFERRAL_BUDGET_EXHAUSTED: "it waited too long and never ran",
    Reason.DEFER_PUBLISH_FAILED: "its wait could not be published and it never ran",
}


NEVER_STARTED = frozenset(_NEVER_STARTED)
"""Deaths of deliveries whose body was not entered, as far as they know. Another delivery of the
message may have begun: see :attr:`governor.ports.Death.began`."""


def judge(
    reason: Reason,
    *,
    idempotent: bool | None,
    delivery: int,
    began: bool | None,
    names_task: bool,
    payload_problem: str | None,
) -> ReplayVerdict:
    """The verdict on one death.

    Args:
        delivery: the attempt at death; above 0 an earlier attempt has run.
        began: whether a delivery of the message has begun; ``None``: not known.
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
    declared = "declared not idempotent" if idempotent is False else "not declared idempotent"
    why = f"the call may have happened, and the task type is {declared}"
    if reason in NEVER_STARTED and delivery == 0:
        if began is False:
            return ReplayVerdict(Verdict.SAFE, _NEVER_STARTED[reason])
        known = "its body had begun" if began else "whether its body had begun is not known"
        why = f"{known}: {why}"
    return ReplayVerdict(Verdict.NEEDS_CONFIRMATION, why)
