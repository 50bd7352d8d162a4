"""Ownership of a request from its reception until it is gone: a step of its life that fails is
tried again, and in the end the request is a death. Nothing of it reaches Celery's loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from governor.clock import Clock
from governor.log_lines import LOG
from governor.ports import Reason
from governor.worker.event_loop import guarded
from governor.worker.lifecycle import WAITING, RequestState
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import ASK_AGAIN

MOST_STUMBLES = 3
"""Steps of one request's life that may fail before it is a death."""


class Ownership:
    """Owner of requests: does the steps of their lives, so that each has an end whatever happens.

    Args:
        withdraw: takes a request out of wherever it waits in this worker.
        hold: lets a request wait until monotonic microseconds.
    """

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        withdraw: Callable[[GovernedRequest], None],
        hold: Callable[[GovernedRequest, int], None],
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._withdraw = withdraw
        self._hold = hold

    def step(self, request: GovernedRequest, work: Callable[..., object], *args: object) -> object:
        """Do one step of a request's life, and see to it that the request has an end if it fails.

        Args:
            work: the step, called with the request and ``args``.

        Returns:
            what ``work`` returns; ``None`` if it failed.
        """
        try:
            return work(request, *args)
        except Exception as exc:
            LOG.exception("Task %s[%s]: the governor failed", request.name, request.id)
            guarded(partial(self.stumbled, request, exc))
            return None

    def stumbled(self, request: GovernedRequest, exc: Exception) -> None:
        """Let a request of which a step failed wait a moment and try again. One that failed too
        often, or whose body has run, becomes a dead letter that says so."""
        said = f"the governor failed on it: {type(exc).__name__}"
        if request.state is RequestState.GONE:
            self._recorder.finish(request)
        elif request.state is RequestState.RUNNING:
            self._recorder.bury(request, Reason.OUTCOME_UNKNOWN, f"{said}, after its body ended")
        elif request.state is RequestState.RETRYING:
            self._recorder.bury(request, Reason.DEFER_PUBLISH_FAILED, said)
        elif request.state is RequestState.RECEIVED or request.state in WAITING:
            self._withdraw(request)
            self.try_again(request, said)

    def try_again(self, request: GovernedRequest, said: str) -> None:
        """Hold a request for a moment after a step that failed; of one that failed too often the
        dead letter says why."""
        request.stumbles += 1
        if request.stumbles < MOST_STUMBLES:
            self._hold(request, self._clock.monotonic() + ASK_AGAIN)
        else:
            self._recorder.bury(request, Reason.INVALID_MESSAGE, said)
