"""Celery's request of a governed task, with our decisions between an end and its
acknowledgement.

Celery overrides ``execute_using_pool`` and ``on_success`` again in a class it makes from this
one, so what must be seen is caught where those end: in ``acknowledge`` and ``on_failure``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.request import Request

from governor.execution.admission import Call
from governor.policy.lot import Lane
from governor.policy.outcome import Outcome

_log = logging.getLogger("governor")


class GovernedRequest(Request):  # type: ignore[misc]
    """A request whose end the gate hears of before the broker does.

    Attributes:
        call: its admission, once the gate has seen it.
        token: names this delivery in claims.
        settled: its outcome is recorded; acknowledging records nothing more.
        burial: what to do once its dead letter is written, while that is under way.
        buried: its dead letter is written.
        held: the prefetch window was widened for it.
        waits: it is counted as waiting.
        epoch: the broker connection it came on.
        received: when it was, in monotonic microseconds.
        outcome: what its call said about the upstream.
        lane: where it waits when it must wait long.
        number: its place in the order in which those of its lane got slots in this worker.
    """

    call: Call | None = None
    token: str = ""
    settled: bool = False
    burial: list[Callable[[], None]] | None = None
    buried: bool = False
    held: bool = False
    waits: bool = False
    epoch: int = 0
    received: int = 0
    outcome: Outcome = Outcome.IGNORED
    lane: Lane | None = None
    number: int | None = None

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        def celery(info: Any = exc_info) -> None:
            super(GovernedRequest, self).on_failure(info, send_failed_event, return_ok)

        gate = self._gate()
        if gate is None:
            celery()
        else:
            gate.on_loop(partial(gate.ends.failed, self, exc_info, celery))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        celery = partial(super().on_timeout, soft, timeout)
        gate = self._gate()
        if soft or gate is None:
            celery()
        else:
            gate.on_loop(partial(gate.settlement.timed_out, self, timeout, celery))

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        celery = partial(super()._announce_revoked, reason, terminated, signum, expired)
        gate = self._gate()
        if gate is None:
            celery()
            return
        # Celery asks again and again whether it is revoked; the answer must be yes already.
        self._already_revoked = True
        gate.on_loop(partial(gate.settlement.revoked, self, expired, celery))

    def acknowledge(self) -> None:
        if not self.settled and not self.acknowledged:
            self.settled = True
            gate = self._gate()
            if gate is not None:
                try:
                    gate.settlement.succeeded(self)
                except Exception:
                    _log.exception("Task %s[%s]: its success was not recorded", self.name, self.id)
        super().acknowledge()

    def _gate(self) -> Any:
        return getattr(self._app.governor, "gate", None)
