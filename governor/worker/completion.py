"""What follows from the end of a body: it waits again, is tried again, or is a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from celery.worker.state import task_ready, task_reserved

from governor.admission.call import Call
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction
from governor.ports import Reason
from governor.worker.body_results import RUN_KEY
from governor.worker.failures import attempt_of
from governor.worker.lateness import Lateness
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.ownership import Ownership
from governor.worker.parking_out import ParkingOut
from governor.worker.queue import RequestQueue
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.resending import Resending
from governor.worker.verdicts import Ending, judge
from governor.worker.waiting import Waiting


class Completion:
    """The ends of one worker's bodies. All of it happens on its loop, but for a success."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        lifecycle: Lifecycle,
        recorder: Recorder,
        ownership: Ownership,
        parking_out: ParkingOut,
        resending: Resending,
        waiting: Waiting,
        queue: RequestQueue,
        lateness: Lateness,
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
        self._queue = queue
        self._lateness = lateness

    def succeeded(self, request: GovernedRequest) -> None:
        """The body returned; called before its message is acknowledged, from any thread."""
        try:
            call = request.call
            if call is not None:
                self._admission.succeeded(call)
            self._recorder.settle(request, ClaimAction.FINISH, outcome=Outcome.SUCCESS)
            if call is not None and call.header.replay_of:
                self._recorder.resolve(request)
        finally:
            self._lifecycle.move(request, RequestState.GONE)

    def failed(self, request: GovernedRequest, exc_info: Any, celery: Callable[..., None]) -> None:
        """The body, or its process, ended with an exception."""
        try:
            self._follow(request, exc_info, celery)
        except Exception as exc:
            LOG.exception("Task %s[%s]: its end was not understood", request.name, request.id)
            self._ownership.stumbled(request, exc)

    def timed_out(
        self, request: GovernedRequest, timeout: float, celery: Callable[[], None]
    ) -> None:
        """The pool killed the body's process at its hard time limit."""
        why = f"hard time limit of {timeout} s"
        self._recorder.bury(request, Reason.HARD_TIME_LIMIT, why, None, celery)

    def revoked(self, request: GovernedRequest, expired: bool, celery: Callable[[], None]) -> None:
        """The task expired, or a person revoked it. A revocation is a person's own record."""
        if expired:
            why = "it expired while it waited"
            self._recorder.bury(request, Reason.EXPIRED, why, None, celery)
        elif request.state is not RequestState.DYING:
            self._recorder.settle(request, ClaimAction.FINISH)
            self._recorder.finish(request, celery)

    def _follow(self, request: GovernedRequest, exc_info: Any, celery: Callable[..., None]) -> None:
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        verdict = judge(request, exc_info, governance)
        match verdict.kind:
            case Ending.Kind.NOT_NOW:
                self._not_now(request, verdict)
            case Ending.Kind.AGAIN:
                attempt = replace(attempt_of(exc_info, self._clock.wall()), wait=verdict.wait)
                self._resending.retry(
                    request, attempt, verdict.outcome, partial(celery, verdict.exc_info)
                )
            case Ending.Kind.PASS:
                self._recorder.settle(request, ClaimAction.FINISH, outcome=verdict.outcome)
                self._recorder.finish(request, partial(celery, verdict.exc_info))
            case Ending.Kind.LEAVE:
                self._parking_out.upkeep.abandon(request)
                celery(verdict.exc_info)
                if request.state is RequestState.RUNNING:
                    self._return(request, called=True)
            case Ending.Kind.ABANDON:
                self._parking_out.upkeep.abandon(request)
                self._return(request, called=verdict.called)
            case Ending.Kind.DEAD:
                assert verdict.reason is not None
                self._recorder.bury(
                    request, verdict.reason, None, exc_info, partial(celery, verdict.exc_info),
                    verdict.outcome, verdict.pause or 0,
                )  # fmt: skip
                if verdict.pause and request.call is not None:
                    self._waiting.recall(request.call.upstream)

    def _return(self, request: GovernedRequest, *, called: bool) -> None:
        """Leave a request unacknowledged: the broker, or the lot, hands its message out again.

        A claim is given back only where no call was made; else the next delivery finds it.
        """
        self._recorder.settle(request, ClaimAction.RELEASE, keeps_claim=called)
        self._lifecycle.move(request, RequestState.RETURNED)
        task_ready(request)

    def _not_now(self, request: GovernedRequest, verdict: Ending) -> None:
        """The body did not make its call; it waits like any other, with no attempt spent."""
        call, pause = request.call, verdict.pause
        assert call is not None
        if pause is not None or verdict.wait:
            self._lifecycle.count(request, "throttled")
            call.header.throttles += 1
        self._recorder.settle(request, ClaimAction.RELEASE, pause or 0, verdict.outcome)
        if verdict.late:
            self._came_late(request, call, verdict.late)
        if pause is not None:
            self._waiting.recall(call.upstream)
        call.settled = False
        request.request_dict.pop(RUN_KEY, None)
        task_ready(request)
        task_reserved(request)
        if not verdict.wait:
            self._queue.enter(request)
            return
        # A call inside the body has to wait; the task's own limits are asked afresh then.
        self._waiting.wait_until(request, call, self._clock.monotonic() + verdict.wait)

    def _came_late(self, request: GovernedRequest, call: Call, late: int) -> None:
        assert call.slot is not None
        self._lifecycle.count(request, "late")
        run = request.request_dict[RUN_KEY]
        began = run["until"] + late
        self._lateness.saw(began - call.slot, began - run["handed"], self._clock.monotonic())
        self._governor.admission.came_late(call)
