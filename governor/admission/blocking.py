"""Admission of a caller that blocks until its slot: a call inside a task or outside a worker, or a
task that is called like a function."""

from __future__ import annotations

from governor.admission.admission import AdmissionService
from governor.admission.call import Call
from governor.clock import SECOND, Clock, seconds
from governor.errors import NotAdmitted, StoreUnavailable
from governor.policy.decision import Admit, Answer, Refuse, Wait

_LOOK_AGAIN = SECOND // 20
"""A caller that blocks is not told when a lease comes free, so it looks so often."""

_PLACE_IN = SECOND
"""When a lease comes free is not known: what a caller is told that does not wait for it."""


def admitted(admission: AdmissionService, clock: Clock, call: Call) -> None:
    """Block until ``call`` may be made, at most until its deadline.

    Raises:
        NotAdmitted: its slot is further away.
        StoreUnavailable: the limiter store did not answer, and its calls wait for it.
    """
    assert call.deadline is not None
    while True:
        patience = max(call.deadline - clock.monotonic(), 0)
        answer = _answer(admission, call)
        if isinstance(answer, Admit):
            return
        # Without a claim there is only one other answer: a slot, kept or too far away.
        assert isinstance(answer, Wait | Refuse)
        delay = answer.until - answer.now
        woken = isinstance(answer, Wait) and answer.woken
        if isinstance(answer, Refuse) or delay > patience or (woken and not patience):
            raise NotAdmitted(
                retry_after=seconds(max(delay, _PLACE_IN) if woken else delay),
                upstream=call.upstream,
                limit=answer.limit,
            )
        clock.sleep(min(delay, _LOOK_AGAIN) if woken else delay)


def _answer(admission: AdmissionService, call: Call) -> Answer:
    try:
        return admission.ask(call)
    except StoreUnavailable:
        answer = admission.without_store(call)
        if answer is None:
            raise
        return answer
