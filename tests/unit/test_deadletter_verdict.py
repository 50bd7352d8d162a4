"""May it be replayed?"""

from __future__ import annotations

import pytest

from governor.deadletter.verdict import NEVER_STARTED, Verdict, judge
from governor.ports import Reason

SAFE, CONFIRM, NEVER = Verdict.SAFE, Verdict.NEEDS_CONFIRMATION, Verdict.IMPOSSIBLE

TABLE = [
    # reason, idempotent, delivery, verdict
    (Reason.RETRIES_EXHAUSTED, True, 4, SAFE),  # declared idempotent: always
    (Reason.OUTCOME_UNKNOWN, True, 0, SAFE),  # even when nobody knows
    (Reason.OUTCOME_UNKNOWN, False, 0, CONFIRM),  # the call may have happened
    (Reason.NOT_IDEMPOTENT, False, 0, CONFIRM),  # it failed, perhaps after it happened
    (Reason.WORKER_LOST, None, 0, CONFIRM),  # nothing declared counts as not idempotent
    (Reason.UNKNOWN_TASK, None, 0, SAFE),  # no worker could have run it
    (Reason.EXPIRED, False, 0, SAFE),  # never started
    (Reason.DEFERRAL_BUDGET_EXHAUSTED, False, 0, SAFE),  # only ever waited
    (Reason.DEFERRAL_BUDGET_EXHAUSTED, None, 1, CONFIRM),  # an earlier attempt has run
    (Reason.DEFER_PUBLISH_FAILED, False, 0, SAFE),  # still waiting when it died
    (Reason.UNDECODABLE, True, 0, NEVER),  # the same bytes would die again
    (Reason.INVALID_MESSAGE, True, 0, NEVER),  # as above
]


@pytest.mark.parametrize(("reason", "idempotent", "delivery", "expected"), TABLE)
def test_verdict(reason: Reason, idempotent: bool | None, delivery: int, expected: Verdict) -> None:
    """The verdict follows from the reason, the declaration and earlier attempts, with a why."""
    found = judge(
        reason, idempotent=idempotent, delivery=delivery, began=False, names_task=True,
        payload_problem=None,
    )  # fmt: skip
    assert found.verdict is expected
    assert found.why


@pytest.mark.parametrize("reason", list(Reason))
def test_nothing_is_replayed_without_its_exact_message(reason: Reason) -> None:
    """A message that is not exact, or names no task, makes a replay impossible."""
    for names_task, problem in ((True, "too large"), (False, None)):
        found = judge(
            reason, idempotent=True, delivery=0, began=False, names_task=names_task,
            payload_problem=problem,
        )  # fmt: skip
        assert found.verdict is NEVER
        assert found.why


@pytest.mark.parametrize("reason", list(Reason))
def test_not_idempotent_is_safe_only_when_it_never_ran(reason: Reason) -> None:
    """No reason in which the body was entered is safe for a type that is not idempotent."""
    never_ran = {
        Reason.UNKNOWN_TASK,
        Reason.EXPIRED,
        Reason.DEFERRAL_BUDGET_EXHAUSTED,
        Reason.DEFER_PUBLISH_FAILED,
    }
    facts = {"delivery": 0, "names_task": True, "payload_problem": None}
    found = judge(reason, idempotent=False, began=False, **facts)
    assert (found.verdict is SAFE) == (reason in never_ran)


@pytest.mark.parametrize(("began", "said"), [(True, "its body had begun"), (None, "is not known")])
@pytest.mark.parametrize("reason", sorted(NEVER_STARTED))
def test_what_may_have_begun_needs_confirmation(
    reason: Reason, began: bool | None, said: str
) -> None:
    """A delivery that dies while it waits is not safe to replay when another delivery of its
    message has begun, or nobody can say; an idempotent one is."""
    facts = {"delivery": 0, "names_task": True, "payload_problem": None, "began": began}
    found = judge(reason, idempotent=None, **facts)
    assert found.verdict is CONFIRM
    assert said in found.why
    assert judge(reason, idempotent=True, **facts).verdict is SAFE
