"""The end of a governed request: its outcome is recorded, and only then is its message let go."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.state import task_ready

from governor.errors import GovernorError, StoreUnavailable
from governor.execution.admission import Call, parts_of
from governor.execution.holdings import Holdings
from governor.governor import Governor
from governor.policy.outcome import Outcome
from governor.ports import ClaimAction, Reason
from governor.ports import Settlement as Leavings
from governor.worker.funeral import Funeral
from governor.worker.loop import guarded
from governor.worker.outage import StoreOutage
from governor.worker.request import GovernedRequest
from governor.worker.task import RUN_KEY

_log = logging.getLogger("governor")

_MOST_MISSED = 10_000
"""Settlements of one upstream kept while the store is away."""


class Settlement:
    """Records successes, revocations and deaths of one worker's requests."""

    def __init__(
        self, governor: Governor, funeral: Funeral, holdings: Holdings, outage: StoreOutage
    ) -> None:
        self._store = governor.store
        self._admission = governor.admission
        self._stats = governor.stats
        self._funeral = funeral
        self._holdings = holdings
        self._outage = outage
        self._missed: dict[str, deque[Leavings]] = {}

    def succeeded(self, request: GovernedRequest) -> None:
        """The body returned; called before its message is acknowledged, from any thread."""
        call = request.call
        if call is not None:
            self._admission.succeeded(call)
        self.settle(request, ClaimAction.FINISH, outcome=Outcome.SUCCESS)
        if call is not None and call.header.replay_of:
            self._funeral.resolve(request.id)

    def timed_out(
        self, request: GovernedRequest, timeout: float, celery: Callable[[], None]
    ) -> None:
        """The pool killed the body's process at its hard time limit."""
        self.bury(request, Reason.HARD_TIME_LIMIT, f"hard time limit of {timeout} s", None, celery)

    def revoked(self, request: GovernedRequest, expired: bool, celery: Callable[[], None]) -> None:
        """It expired, or a person revoked it. A revocation is a person's own record."""
        if expired:
            self.bury(request, Reason.EXPIRED, "it expired while it waited", None, celery)
        else:
            self.settle(request, ClaimAction.FINISH)
            request.settled = True
            celery()

    def bury(  # noqa: PLR0917 - what is known of one death
        self,
        request: GovernedRequest,
        reason: Reason,
        why: str | None,
        exc_info: Any = None,
        celery: Callable[[], None] | None = None,
        outcome: Outcome = Outcome.IGNORED,
    ) -> None:
        """Write the dead letter, then let Celery finish. One burial for each request, however many
        ways Celery reports its death."""
        request.outcome = outcome
        then = celery or partial(self._fail, request, reason, why or reason.value)
        if request.burial is not None:
            request.burial.append(then)
            return
        if request.buried:
            guarded(then)
            return
        request.burial = [then]
        self.waits(request, False)
        self._funeral.hold(request, reason, why, exc_info, partial(self._buried, request))

    def _buried(self, request: GovernedRequest) -> None:
        self.count(request, "dead")
        self.settle(request, ClaimAction.FINISH, outcome=request.outcome)
        request.settled = True
        request.buried = True
        waiting, request.burial = request.burial or [], None
        for then in waiting:
            guarded(then)

    def _fail(self, request: GovernedRequest, reason: Reason, why: str) -> None:
        """A task that never ran has failed: its result, errbacks and chord hear of it."""
        task_ready(request)
        try:
            request.task.backend.mark_as_failure(
                request.id,
                GovernorError(f"{reason.value}: {why}"),
                request=request._context,
                store_result=request.store_errors,
            )
        except Exception:
            _log.exception("Task %s[%s]: its failure was not stored", request.name, request.id)
        request.acknowledge()

    def let_go(self, request: GovernedRequest) -> None:
        """Acknowledge a delivery that left nothing to settle."""
        self.waits(request, False)
        request.settled = True
        task_ready(request)
        request.acknowledge()

    def settle(
        self,
        request: GovernedRequest,
        action: ClaimAction,
        pause: int = 0,
        outcome: Outcome = Outcome.IGNORED,
    ) -> None:
        """One call, and only where there is something to say. A success usually goes with the next
        admission."""
        call = request.call
        if call is None:
            return
        claim, upstream = call.claim, call.plan.upstream
        places = call.places if call.admitted else ()
        if claim is not None or places:
            self._holdings.remove(call.holder)
        ran = RUN_KEY in request.request_dict
        if not (ran or request.buried or request.burial):
            claim = None
        watched = upstream.breaker is not None or upstream.adaptive is not None
        probe, call.probe, call.admitted = call.probe, False, False
        if not (pause or claim or places or probe or (watched and outcome.dropped)):
            return
        self._admission.settled_without_store(call)
        self._send(
            Leavings(
                call.upstream, call.holder, action, claim, places, pause=pause, outcome=outcome,
                probe=probe, breaker=upstream.breaker, adaptive=upstream.adaptive,
            )
        )  # fmt: skip

    def unused(self, call: Call) -> None:
        """Nobody will run under this admission: a probe is another's to make."""
        if call.probe:
            call.probe = False
            upstream = call.plan.upstream
            self._send(Leavings(upstream.name, probe=True, breaker=upstream.breaker))

    def catch_up(self) -> None:
        """The store answers again: tell it what it has missed."""
        for missed in self._missed.values():
            for _ in range(len(missed)):
                if self._is_away(missed[0]):
                    break
                self._send(missed.popleft())

    def _send(self, leavings: Leavings) -> None:
        if self._is_away(leavings):
            # Each call would block for its timeout. Until it is told, a claim or a place runs out:
            # a second delivery would not call again.
            self._miss(leavings)
            return
        self._stats.settled()
        try:
            self._store.settle(leavings)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            self._miss(leavings)

    def _is_away(self, leavings: Leavings) -> bool:
        return self._outage.on(leavings.upstream, parts_of(leavings.places, leavings.claim))

    def _miss(self, leavings: Leavings) -> None:
        self._missed.setdefault(leavings.upstream, deque(maxlen=_MOST_MISSED)).append(leavings)

    def waits(self, request: GovernedRequest, waits: bool) -> None:
        """Whether it is one of those that wait, for those who watch."""
        if request.waits is not waits:
            request.waits = waits
            self.count(request, "waiting", 1 if waits else -1)

    def count(self, request: GovernedRequest, what: str, by: int = 1) -> None:
        """Count ``what`` happened to it, for those who watch."""
        if request.call is not None:
            self._stats.count(request.call.upstream, what, by)
