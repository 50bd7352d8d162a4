"""Messages that a worker publishes again: with a countdown, or as the next attempt. The message
that was received is acknowledged once the broker has its copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from governor.admission.call import Call
from governor.clock import SECOND, as_datetime, seconds
from governor.errors import Unroutable
from governor.events import TaskDeferred, TaskRetried
from governor.governor import Governor
from governor.log_lines import LOG
from governor.messages.header import Attempt
from governor.messages.message import copy_of
from governor.messages.variants import deferred, retried
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction
from governor.ports import Reason
from governor.worker.body_results import RUN_KEY
from governor.worker.event_loop import Loop, guarded
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.publishing import AGAIN, Publishing
from governor.worker.queue import RequestQueue
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest

_LONGEST_LEAD = SECOND // 2
"""A deferred task comes back this long before its slot, so that Celery's timers, which fire ten
at a pass and may sleep a second, do not make it late."""


class Resending:
    """Deferrals and retries of one worker's requests."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        loop: Loop,
        lifecycle: Lifecycle,
        recorder: Recorder,
        publishing: Publishing,
        queue: RequestQueue,
    ) -> None:
        self._settings = governor.settings
        self._clock = governor.clock
        self._loop = loop
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._publishing = publishing
        self._queue = queue

    def defer(self, request: GovernedRequest, call: Call) -> None:
        """Publish the message again with a countdown to its slot; hold the request for a moment if
        the broker does not take it."""
        self._lifecycle.move(request, RequestState.DEFERRING)
        assert call.slot is not None
        now = self._clock.monotonic()
        delay = call.slot - now - min(self._settings.hold, _LONGEST_LEAD)
        delay = max(0, min(delay, self._settings.max_countdown))
        call.header = call.header.waiting_elsewhere(call.limit)
        eta = self._clock.wall() + delay
        copy = deferred(copy_of(request.message), call.header, as_datetime(eta))
        if (error := self._publishing.publish(copy, eta)) is not None:
            LOG.error("Task %s[%s]: not deferred, %s; the message stays here",
                       request.name, request.id, type(error).__name__)  # fmt: skip
            self._queue.hold(request, self._clock.monotonic() + AGAIN)
            return
        self._recorder.finish(request)
        if self._lifecycle.events.listeners:
            guarded(partial(self._tell_deferred, request, call, call.slot))
        LOG.info("Task %s[%s] waits for %s until its slot in %.1f s",
                  request.name, request.id, call.upstream, seconds(call.slot - now))  # fmt: skip

    def _tell_deferred(self, request: GovernedRequest, call: Call, slot: int) -> None:
        until, limit = self._lifecycle.wall_of(slot), call.limit or ""
        self._lifecycle.tell(request, TaskDeferred, until, limit, call.header.deferrals)

    def retry(
        self,
        request: GovernedRequest,
        attempt: Attempt,
        outcome: Outcome,
        celery: Callable[[], None],
    ) -> None:
        """Publish the next attempt; when the broker has it, Celery may acknowledge this one.

        Args:
            attempt: how this one failed, and how long the next one waits.
            outcome: what the call said about its upstream.
        """
        call = request.call
        assert call is not None
        self._lifecycle.move(request, RequestState.RETRYING)
        began = request.request_dict[RUN_KEY]["began"]
        call.header = call.header.failed(attempt)._replace(began=began)
        eta = self._clock.wall() + min(attempt.wait, self._settings.max_countdown)
        copy = retried(copy_of(request.message), call.header, as_datetime(eta))

        def submit() -> None:
            if (error := self._publishing.publish(copy, eta)) is None:
                self._lifecycle.tell(
                    request, TaskRetried, int(request.request_dict.get("retries") or 0),
                    attempt.wait, attempt.exc_type, attempt.http_status,
                )  # fmt: skip
                guarded(
                    partial(self._recorder.settle, request, ClaimAction.FINISH, outcome=outcome)
                )
                self._recorder.finish(request, celery)
                return
            if isinstance(error, Unroutable):
                # The broker would say the same for ever.
                self._recorder.bury(
                    request, Reason.DEFER_PUBLISH_FAILED, str(error), outcome=outcome
                )
                return
            LOG.error("Task %s[%s]: its next attempt was not published, %s; trying again",
                       request.name, request.id, type(error).__name__)  # fmt: skip
            self._loop.at(self._clock.monotonic() + AGAIN, submit)

        submit()
