"""Ends of governed requests: an outcome is recorded, and only then the message let go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.state import task_ready

from governor.admission.call import Admission, Call, parts_of
from governor.admission.lease_renewal import LeaseRenewal
from governor.admission.store_calls import timed
from governor.clock import SECOND
from governor.errors import GovernorError, StoreUnavailable
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction
from governor.policy.settlement import Settlement as Leavings
from governor.ports import Reason
from governor.worker.body_results import RUN_KEY
from governor.worker.dead_letter_writer import DeadLetterWriter
from governor.worker.event_loop import Loop, guarded
from governor.worker.known_upstreams import KnownUpstreams
from governor.worker.lifecycle import ENDED, Lifecycle, RequestState
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import StoreOutage

_MOST_MISSED = 10_000
"""Settlements of one upstream kept while the store is away."""

_WRITE_AGAIN = SECOND

_NOTHING = Admission()


class Recorder:
    """Recorder of the ends of one worker's requests; it lets their messages go."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        loop: Loop,
        lifecycle: Lifecycle,
        dead_letter_writer: DeadLetterWriter,
        lease_renewal: LeaseRenewal,
        outage: StoreOutage,
        known_upstreams: KnownUpstreams,
    ) -> None:
        self._store = governor.store
        self._admission = governor.admission
        self._events = governor.events
        self._clock = governor.clock
        self._loop = loop
        self._lifecycle = lifecycle
        self._dead_letter_writer = dead_letter_writer
        self._lease_renewal = lease_renewal
        self._outage = outage
        self._known_upstreams = known_upstreams
        # What Celery does once a dead letter is written.
        self._after: dict[GovernedRequest, list[Callable[[], None]]] = {}
        self._missed: dict[str, deque[Leavings]] = {}

    def bury(  # noqa: PLR0917 - what is known of one death
        self,
        request: GovernedRequest,
        reason: Reason,
        why: str | None,
        exc_info: Any = None,
        celery: Callable[[], None] | None = None,
        outcome: Outcome = Outcome.IGNORED,
        pause: int = 0,
    ) -> None:
        """Write the dead letter, then let Celery finish. One burial for each request, however many
        ways Celery reports its death."""
        then = celery or partial(self._fail, request, reason, why or reason.value)
        if request.state in ENDED:
            guarded(then)
            return
        self._after.setdefault(request, []).append(then)
        if request.state is not RequestState.DYING:
            self._lifecycle.move(request, RequestState.DYING)
            settle = partial(self.settle, request, ClaimAction.FINISH, pause=pause, outcome=outcome)
            self._write_until_kept(request, reason, why, exc_info, settle)

    def _write_until_kept(
        self, request: GovernedRequest, reason: Reason, why: str | None, exc_info: Any,
        settle: Callable[[], None],
    ) -> None:  # fmt: skip
        buried = partial(self._buried, request, settle)
        try:
            self._dead_letter_writer.hold(request, reason, why, exc_info, buried)
        except Exception:
            LOG.exception("Task %s[%s]: its dead letter is not made", request.name, request.id)
            again = partial(self._write_until_kept, request, reason, why, exc_info, settle)
            self._loop.at(self._clock.monotonic() + _WRITE_AGAIN, again)

    def _buried(self, request: GovernedRequest, settle: Callable[[], None]) -> None:
        guarded(settle)
        self.finish(request, *self._after.pop(request, ()))

    def _fail(self, request: GovernedRequest, reason: Reason, why: str) -> None:
        """Let a task that never ran fail: its result, errbacks and chord hear of it."""
        task_ready(request)
        request.task.backend.mark_as_failure(
            request.id,
            GovernorError(f"{reason.value}: {why}"),
            request=request._context,
            store_result=request.store_errors,
        )

    def finish(self, request: GovernedRequest, *celery: Callable[[], None]) -> None:
        """Let go of a request whose end is recorded: what Celery does at an end, and then the
        acknowledgement, whatever of it fails."""
        try:
            self._lifecycle.move(request, RequestState.GONE)
        finally:
            for then in celery:
                guarded(then)
            if not request.acknowledged:
                guarded(partial(task_ready, request))
                guarded(request.acknowledge)

    def settle(
        self,
        request: GovernedRequest,
        action: ClaimAction,
        pause: int = 0,
        outcome: Outcome = Outcome.IGNORED,
        *,
        keeps_claim: bool = False,
    ) -> None:
        """Tell the store how an execution ended: one call, and only where there is something to
        say. A success usually goes with the next admission."""
        call = request.call
        if call is None:
            return
        claim, upstream = call.claim, call.plan.upstream
        held, call.admission = call.admission or _NOTHING, None
        leases, probe = held
        if claim is not None or leases:
            self._lease_renewal.remove(call.holder)
        ran = RUN_KEY in request.request_dict or request.state is RequestState.DYING
        if keeps_claim or not ran:
            claim = None
        watched = upstream.breaker is not None or upstream.adaptive is not None
        self._admission.settled_without_store(call)
        if not (pause or claim or leases or probe or (watched and outcome.dropped)):
            return
        self._send(
            Leavings(
                call.upstream, call.holder, action, claim, leases, pause=pause, outcome=outcome,
                probe=probe, breaker=upstream.breaker, adaptive=upstream.adaptive,
            )
        )  # fmt: skip

    def resolve(self, request: GovernedRequest) -> None:
        """Have the dead letter of a replay that succeeded say so."""
        self._dead_letter_writer.resolve(request.id)

    def unused(self, call: Call) -> None:
        """Give up an admission under which nothing will run: a probe is another's to make."""
        held, call.admission = call.admission, None
        if held is not None and held.probe:
            upstream = call.plan.upstream
            self._send(Leavings(upstream.name, probe=True, breaker=upstream.breaker))

    def catch_up(self) -> None:
        """Tell the store, which answers again, what it has missed."""
        for missed in self._missed.values():
            for _ in range(len(missed)):
                if self._is_away(missed[0]):
                    break
                self._send(missed.popleft())

    def _send(self, leavings: Leavings) -> None:
        if self._is_away(leavings):
            # Each call would block for its timeout. Until it is told, a claim or a lease runs out:
            # a second delivery would not call again.
            self._miss(leavings)
            return
        settle = partial(self._store.settle, leavings)
        try:
            settled = timed(self._events, self._clock, "settle", settle)
            self._known_upstreams.settled(leavings.upstream, settled)
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            self._miss(leavings)
        except Exception:
            # What it says runs out by itself.
            LOG.exception("An end of a task of %s was not recorded", leavings.upstream)

    def _is_away(self, leavings: Leavings) -> bool:
        return self._outage.on(leavings.upstream, parts_of(leavings.leases, leavings.claim))

    def _miss(self, leavings: Leavings) -> None:
        self._missed.setdefault(leavings.upstream, deque(maxlen=_MOST_MISSED)).append(leavings)
