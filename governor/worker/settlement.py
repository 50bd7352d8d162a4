"""The end of a governed request: its outcome is recorded, and only then is its message let go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.state import task_ready

from governor.errors import GovernorError, StoreUnavailable
from governor.governor import Governor
from governor.ports import ClaimAction, Reason
from governor.worker.claims import RunningClaims
from governor.worker.funeral import Funeral
from governor.worker.loop import guarded
from governor.worker.outage import StoreOutage
from governor.worker.request import GovernedRequest
from governor.worker.task import RUN_KEY

_log = logging.getLogger("governor")


class Settlement:
    """Records successes, revocations and deaths of one worker's requests."""

    def __init__(
        self, governor: Governor, funeral: Funeral, claims: RunningClaims, outage: StoreOutage
    ) -> None:
        self._store = governor.store
        self._stats = governor.stats
        self._funeral = funeral
        self._claims = claims
        self._outage = outage

    def succeeded(self, request: GovernedRequest) -> None:
        """The body returned; called before its message is acknowledged, from any thread."""
        self.settle(request, ClaimAction.FINISH)
        if request.call is not None and request.call.header.replay_of:
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

    def bury(
        self,
        request: GovernedRequest,
        reason: Reason,
        why: str | None,
        exc_info: Any = None,
        celery: Callable[[], None] | None = None,
    ) -> None:
        """Write the dead letter, then let Celery finish. One burial for each request, however many
        ways Celery reports its death."""
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
        self.settle(request, ClaimAction.FINISH)
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

    def settle(self, request: GovernedRequest, action: ClaimAction, pause: int = 0) -> None:
        """One call, and only where there is something to say."""
        call = request.call
        if call is None:
            return
        claim = call.claim
        if claim is not None:
            self._claims.remove(claim)
        ran = RUN_KEY in request.request_dict
        if not pause and (claim is None or not (ran or request.buried or request.burial)):
            return
        self._stats.settled()
        try:
            self._store.settle(call.upstream, claim, action if claim else None, pause)
        except StoreUnavailable as exc:
            # The claim stays and runs out: a second delivery would not call again.
            self._outage.failed(exc)

    def waits(self, request: GovernedRequest, waits: bool) -> None:
        """Whether it is one of those that wait, for those who watch."""
        if request.waits is not waits:
            request.waits = waits
            self.count(request, "waiting", 1 if waits else -1)

    def count(self, request: GovernedRequest, what: str, by: int = 1) -> None:
        """Count ``what`` happened to it, for those who watch."""
        if request.call is not None:
            self._stats.count(request.call.upstream, what, by)
