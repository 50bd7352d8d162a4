"""The body that every governed task type gets: an admission before it, and a decision after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry

from governor.admission import nested_calls
from governor.admission.blocking import admitted as admitted_at_its_slot
from governor.admission.call import Call, charges_of
from governor.clock import seconds
from governor.errors import BodyDied, ConfigurationError
from governor.foreign import is_from_outside
from governor.governor import Governor
from governor.messages.header import Header
from governor.policy.plan import Governance
from governor.policy.retry import RetryIn
from governor.worker.body_results import RUN_KEY, NotNow
from governor.worker.failures import decide, raised, returned


def governed_body(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``run``: an admission before it, and a decision about its failure after it."""

    @wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        governor = Governor.of(task.app)
        governance = governor.governance(task.name)
        if governance is None:
            return run(*args, **kwargs)
        if request.called_directly or request.is_eager:
            _admit_inline(governor, governance, args, kwargs)
            try:
                with nested_calls.call():
                    return run(*args, **kwargs)
            except Exception as exc:
                _decide_eagerly(task, governor, governance, exc)
                raise
        admitted = getattr(request, RUN_KEY, None)
        if admitted is None:
            raise ConfigurationError(
                f"Task {task.name} reached a worker without admission. "
                "The worker's app must have a Governor(app)"
            )
        # Celery takes it for a header of the caller's, which its retry would publish.
        (request.headers or {}).pop(RUN_KEY, None)
        if (late := governor.clock.monotonic() - admitted["until"]) > 0:
            raise NotNow(late=late)
        try:
            with nested_calls.NestedCalls() as calls:
                result = run(*args, **kwargs)
        except (Ignore, Reject, CeleryRetry):
            raise
        except BaseException as exc:
            if is_from_outside(exc):
                raise
            now = governor.clock.wall()
            ended = decide(task.name, governance, exc, request, admitted, calls, now)
            told = ended if isinstance(ended, NotNow) else raised(admitted, exc, ended)
            if told is None:
                raise
            # An exception that would end the worker goes no further.
            raise told from (None if isinstance(told, BodyDied) else exc)
        returned(admitted)
        return result

    body.governed = True  # type: ignore[attr-defined]
    return body


def _decide_eagerly(task: Any, governor: Governor, governance: Governance, exc: Exception) -> None:
    """Follow the retry policy in eager mode, where Celery runs the next attempt inside this one. A
    direct call is the caller's to repeat."""
    request = task.request
    if not request.is_eager or isinstance(exc, Ignore | Reject | CeleryRetry):
        return
    if governance.idempotent and governance.retry is not None:
        attempt = int(request.retries or 0) + 1
        decision = governance.retry.decide(exc, attempt=attempt, elapsed=0)
        if isinstance(decision, RetryIn):
            signature = task.signature_from_request(
                request, request.args, request.kwargs,
                countdown=seconds(decision.wait), retries=attempt,
            )  # fmt: skip
            governor.clock.sleep(min(decision.wait, governor.settings.inline_wait))
            raise CeleryRetry(exc=exc, when=seconds(decision.wait), sig=signature) from exc


def _admit_inline(
    governor: Governor, governance: Governance, args: Sequence[Any], kwargs: Any
) -> None:
    """Block until the call may be made.

    Raises:
        NotAdmitted: not within ``governor_inline_wait``.
        StoreUnavailable: the limiter store did not answer.
    """
    plan = governance.plan
    charges = charges_of(plan, Header(), args, kwargs)
    patience = min(governor.settings.inline_wait, plan.upstream.max_wait)
    call = Call(plan, charges, Header(), deadline=governor.clock.monotonic() + patience)
    admitted_at_its_slot(governor.admission, governor.clock, call)
