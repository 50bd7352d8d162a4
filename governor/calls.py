"""Calls inside a task, and outside a worker: the :class:`Upstream` that people declare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from celery import Celery, current_app, current_task
from celery._state import _get_active_apps

from governor.admission import nested_calls
from governor.admission.blocking import admitted
from governor.admission.call import Call
from governor.admission.store_calls import timed
from governor.clock import micros
from governor.errors import (
    ConfigurationError,
    DeclarationError,
    NotAdmitted,
    StoreUnavailable,
    Throttled,
)
from governor.governor import Governor
from governor.headers.http_message import status_of
from governor.log_lines import LOG
from governor.messages.header import Header
from governor.policy import cost as costs
from governor.policy import upstream
from governor.policy.failure import causes, http_status
from governor.policy.outcome import Outcome, outcome_of, outcome_of_status
from governor.policy.plan import CallPlan
from governor.policy.retry_after import (
    from_response,
    pause_of,
    throttled_from_exception,
)
from governor.policy.settlement import ClaimAction, Settlement

_LONGEST_WAIT = 86_400


class Upstream(upstream.UpstreamDeclaration):
    """A third-party API as the fleet sees it. Declare it once and import it where it is used.

    Tasks name it; calls inside a task, and outside a worker, are made with :meth:`call`. The
    arguments are those of :class:`governor.policy.upstream.UpstreamDeclaration`.
    """

    __slots__ = ()

    @contextmanager
    def call(
        self,
        *,
        wait: float = 0.0,
        cost: int | None = None,
        app: Celery | None = None,
        **arguments: Any,
    ) -> Iterator[OpenCall]:
        """Make one call under this upstream's limits: ``with stripe.call(account="a"):``.

        Args:
            wait: seconds to block for the slot, at most.
            cost: cost units, instead of what the limits declare.
            app: whose governor; by default the running task's, or the only one of the process;
                of several the current app's.
            arguments: the values that ``per=`` limits and cost functions ask for.

        Raises:
            NotAdmitted: the slot is further away than ``wait``. The call was not made.
            StoreUnavailable: the limiter store did not answer, and the upstream's
                ``store_down`` is ``"closed"``.
            DeclarationError: an argument that a ``per=`` limit needs is missing, or the cost or
                the wait is none.
        """
        if isinstance(wait, bool) or not isinstance(wait, int | float):
            raise DeclarationError("wait", f"{wait!r} is no wait", "Give seconds")
        if not 0 <= wait <= _LONGEST_WAIT:
            raise DeclarationError("wait", f"{wait!r} is out of range", "Give 0 to 86400 seconds")
        governor = governor_of(app)
        plan = plan_of(self)
        charges = costs.charges(plan, arguments, cost)
        deadline = governor.clock.monotonic() + micros(wait)
        call = Call(plan, charges, Header(), holder=uuid4().hex, deadline=deadline)
        admitted(governor.admission, governor.clock, call)
        opened = OpenCall(governor, call)
        try:
            yield opened
        except BaseException as exc:
            opened._end(exc)
            raise
        else:
            opened._end(None)


class OpenCall:
    """A call that was admitted: make it now."""

    def __init__(self, governor: Governor, call: Call) -> None:
        self._governor = governor
        self._call = call
        self._response: Any = None
        self._cost: int | None = None
        self._began = nested_calls.began()
        if self._leases():
            governor.lease_renewal.add(self._settlement(ClaimAction.RENEW))

    def settle(self, *, cost: int) -> None:
        """Say what the call turned out to cost: the difference is charged, or given back.

        Raises:
            DeclarationError: the cost is no number, or no limit of the upstream counts it.
        """
        call = self._call
        self._governor.corrections.settle(call.plan, call.charges, cost, self._cost)
        self._cost = cost

    def observe(self, response: Any) -> None:
        """Read what a response says: "not now", a failure, what is left of the upstream's quotas.

        Only needed where the response does not become an exception. It never fails.
        """
        self._response = response
        buckets = [charge.bucket for charge in self._call.charges]
        self._governor.corrections.observe(self._call.plan, buckets, response)

    def _end(self, exc: BaseException | None) -> None:
        call, admission = self._call, self._governor.admission
        self._governor.lease_renewal.remove(call.holder)
        throttled = self._throttled(exc)
        outcome = self._outcome(exc, throttled)
        pause = 0
        if throttled is not None:
            pause = pause_of(throttled, 0)
            self._began.refused(self._response if exc is None else exc)
        if outcome is Outcome.SUCCESS and not self._probe():
            # The store hears of it with the next question.
            admission.succeeded(call)
            outcome = Outcome.IGNORED
        admission.settled_without_store(call)
        watched = call.plan.upstream.breaker or call.plan.upstream.adaptive
        if self._leases() or self._probe() or pause or (watched and outcome.dropped):
            settlement = self._settlement(ClaimAction.FINISH, pause=pause, outcome=outcome)
            settle = partial(self._governor.store.settle, settlement)
            try:
                timed(self._governor.events, self._governor.clock, "settle", settle)
            except StoreUnavailable as error:
                # The call was made. A lease runs out by itself.
                LOG.error("%s The end of a call of %s was not recorded", error, call.upstream)

    def _leases(self) -> tuple[str, ...]:
        """The leases that the store keeps for the call: none if admitted without the store."""
        admission = self._call.admission
        return () if admission is None else admission.leases

    def _probe(self) -> bool:
        admission = self._call.admission
        return admission is not None and admission.probe

    def _throttled(self, exc: BaseException | None) -> Throttled | None:
        now = self._governor.clock.wall()
        if exc is not None:
            throttled = throttled_from_exception(exc, now)
            if isinstance(throttled, NotAdmitted):
                return None
            if throttled is not None or any(http_status(link) is not None for link in causes(exc)):
                return throttled
        return from_response(self._response, now)

    def _outcome(self, exc: BaseException | None, throttled: Throttled | None) -> Outcome:
        if throttled is not None:
            return Outcome.THROTTLED
        outcome = Outcome.SUCCESS if exc is None else outcome_of(exc)
        status = status_of(self._response)
        if status is not None and (exc is None or outcome is Outcome.IGNORED):
            # The exception says nothing of the upstream, and the response does.
            return outcome_of_status(status)
        return outcome

    def _settlement(
        self, action: ClaimAction, *, pause: int = 0, outcome: Outcome = Outcome.IGNORED
    ) -> Settlement:
        call, declared = self._call, self._call.plan.upstream
        return Settlement(
            upstream=declared.name,
            holder=call.holder,
            action=action,
            leases=self._leases(),
            lease=self._governor.settings.claim_lease,
            pause=pause,
            outcome=outcome,
            probe=self._probe() and action is ClaimAction.FINISH,
            breaker=declared.breaker,
            adaptive=declared.adaptive,
        )


def governor_of(app: Celery | None) -> Governor:
    """The governor of ``app``, of the running task's app, or the only one of this process; of
    several that of the current app. Celery has a current app in the thread that made it.

    Raises:
        ConfigurationError: there is none, or there are several.
    """
    if app is not None or current_task:
        return Governor.of(app or current_task.app)
    open_apps = [*_get_active_apps()]
    found: list[Governor] = [known.governor for known in open_apps if hasattr(known, "governor")]
    if len(found) == 1:
        return found[0]
    if found and not hasattr(current_app, "governor"):
        names = ", ".join(sorted(repr(governor.app.main) for governor in found))
        raise ConfigurationError(
            f"Several apps have governors ({names}), and none of them is current in this thread. "
            "Say which with app="
        )
    return Governor.of(current_app)


def plan_of(declared: upstream.UpstreamDeclaration) -> CallPlan:
    """How a call is charged that is no task's: to the upstream's own limits."""
    return CallPlan.of(f"{declared.name}.call()", declared)
