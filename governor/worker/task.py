"""The task base class, and the body that every governed task type gets."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from uuid import uuid4

from celery import Task
from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry

from governor.admission import nested_calls
from governor.admission.admission import Call, charges_of
from governor.admission.blocking import admitted as admitted_at_its_slot
from governor.clock import seconds
from governor.errors import ConfigurationError, DeclarationError
from governor.foreign import is_from_outside
from governor.governor import Governance, Governor
from governor.messages.header import NAME, Header, work_id
from governor.policy.limits import Limit
from governor.policy.plan import CallPlan
from governor.policy.retry import Retry, RetryIn
from governor.policy.upstream import UpstreamDeclaration
from governor.worker.body_results import RUN_KEY, BodyDied, NotNow
from governor.worker.failures import Tracer, decide, raised, returned, with_attempt


class _Bind:
    """Celery's ``bind``, which makes a task ready to use; it is governed from then on. Until then
    its class and an ``__init__`` of its own may declare something, and neither has to call anything
    of the governor's."""

    def __get__(self, task: Any, owner: type[GovernedTask]) -> Any:
        celery: Any = super(GovernedTask, owner).bind  # type: ignore[misc]
        if task is None:
            return celery

        @wraps(celery)
        def bind(app: Any) -> Any:
            try:
                # Before Celery gives the class the app's defaults, which nobody declared.
                declare(task)
            except DeclarationError:
                # Celery has it in its registry already, and would hand it out ungoverned.
                if app._tasks.get(task.name) is task:
                    del app._tasks[task.name]
                raise
            return celery(app)

        return bind


class _RetryMethod:
    """Celery's ``retry``; of a governed task it keeps the idempotency key, or refuses to make a
    call twice."""

    def __get__(self, task: Any, owner: Any) -> Any:
        celery: Any = super(GovernedTask, owner if task is None else task).retry  # type: ignore[misc]
        if task is None or task.upstream is None:
            return celery

        @wraps(celery)
        def retry(*args: Any, **kwargs: Any) -> Any:
            if not task.idempotent:
                raise kwargs.get("exc") or DeclarationError(
                    "idempotent",
                    f"task {task.name} asked to be retried but is not idempotent",
                    "Declare idempotent=True if calling twice does no harm",
                )
            request = task.request
            headers = kwargs.pop("headers", None)
            headers = dict((request.headers or {}) if headers is None else headers)
            exc = kwargs.get("exc") or sys.exc_info()[1]
            now = Governor.of(task.app).clock.wall()
            if known := with_attempt(request, exc, now, kwargs.get("countdown")):
                headers[NAME] = known
            return celery(*args, headers=headers, **kwargs)

        return retry


class GovernedTask(Task):  # type: ignore[misc]
    """Base class of tasks that call an upstream.

    Options, given to ``@app.task(base=GovernedTask, …)`` or as class attributes:

    Attributes:
        upstream: the :class:`~governor.Upstream` the task calls. Without one the task is an
            ordinary Celery task in every respect.
        limits: further :class:`~governor.Limit` of this task type alone.
        idempotent: whether calling twice does no harm. Only then is a failed call made again;
            otherwise each call is made at most once.
        retry: a :class:`~governor.Retry`; for idempotent tasks only. The method
            ``self.retry()`` is still Celery's.

    Raises:
        DeclarationError: when Celery creates the task from its declaration, naming the field.
    """

    abstract = True
    upstream: UpstreamDeclaration | None = None
    limits: Sequence[Limit] = ()
    idempotent: bool = False
    retry_policy: Retry | None = None

    bind = _Bind()
    retry = _RetryMethod()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        policy = getattr(cls, "retry", None)
        if callable(policy):
            return
        if not isinstance(policy, Retry):
            raise DeclarationError("retry", f"{policy!r} is no policy", "Write Retry(on=…)")
        # The option shares its name with Celery's method, which bodies may call.
        cls.retry_policy = policy
        methods = (vars(base)["retry"] for base in cls.__mro__ if "retry" in vars(base))
        cls.retry = next(method for method in methods if not isinstance(method, Retry))

    def __getattr__(self, name: str) -> Any:
        """Find what the app's own task class has and Celery's has not, like Django's
        ``delay_on_commit``."""
        app = type(self)._app
        if app is not None and not name.startswith("_") and hasattr(app.Task, name):
            found = inspect.getattr_static(app.Task, name)
            return found.__get__(self, type(self)) if hasattr(found, "__get__") else found
        raise AttributeError(f"{type(self).__name__!r} task has no attribute {name!r}")

    @property
    def idempotency_key(self) -> str:
        """The same for every retry, deferral and replay of this task; send it to the upstream."""
        request = self.request
        if request.id is None:
            if getattr(request, "governor_key", None) is None:
                request.governor_key = str(uuid4())
            return str(request.governor_key)
        header = Header.from_message({NAME: getattr(request, NAME, None)})
        return header.key_of(work_id(request.id, request.replaced_task_nesting))

    def settle(self, *, cost: int) -> None:
        """Say what this execution's call turned out to cost: the difference is charged, or given
        back. Of several times, the last counts. While the limiter store is away, it is lost.

        Raises:
            DeclarationError: the cost is no number, or no limit of the task counts it.
        """
        request = self.request
        governor = Governor.of(self.app)
        governance = governor.governance(str(self.name))
        if governance is None:
            raise DeclarationError("upstream", f"task {self.name} has none", "Add upstream=…")
        plan = governance.plan
        admitted = getattr(request, RUN_KEY, None)
        if admitted is not None and admitted["leaves_reserve"]:
            plan = plan.leaving_reserve()
        header = Header.from_message({NAME: getattr(request, NAME, None)})
        charged = charges_of(plan, header, request.args or (), request.kwargs or {})
        before = getattr(request, "governor_cost", None)
        governor.corrections.settle(plan, charged, cost, before)
        request.governor_cost = cost


def declare(task: GovernedTask) -> None:
    """Check what a task declares, and govern it if it names an upstream.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if task.upstream is None:
        _refuse_leftovers(task)
    elif not _is_governed(task):
        check_declaration(task)
        govern(task)


def _refuse_leftovers(task: GovernedTask) -> None:
    for field in ("limits", "idempotent", "retry_policy"):
        if getattr(task, field):
            name = "retry" if field == "retry_policy" else field
            raise DeclarationError(
                name, f"task {task.name} declares it but no upstream", "Add upstream=…"
            )


def check_declaration(task: GovernedTask) -> None:
    """Refuse a declaration that cannot keep its promises.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if not isinstance(task.upstream, UpstreamDeclaration):
        raise DeclarationError(
            "upstream",
            f"{task.upstream!r} is not an UpstreamDeclaration",
            'Write UpstreamDeclaration("stripe", …)',
        )
    CallPlan.of(str(task.name), task.upstream, task.limits, inspect.signature(task.run))
    if not task.idempotent and (task.retry_policy or getattr(task, "autoretry_for", None)):
        raise DeclarationError(
            "retry" if task.retry_policy else "autoretry_for",
            f"task {task.name} is not idempotent: a retry could make its call twice",
            "Declare idempotent=True if calling twice does no harm, or remove the policy",
        )
    options = {
        name: value
        for cls in reversed(type(task).__mro__)
        if issubclass(cls, GovernedTask)
        for name, value in vars(cls).items()
    }
    if options.get("acks_late") is False:
        raise DeclarationError(
            "acks_late",
            f"task {task.name} would be acknowledged before it runs, and lost with its worker",
            "Remove acks_late=False: governed tasks are acknowledged late",
        )
    for name, bad in (("reject_on_worker_lost", True), ("acks_on_failure_or_timeout", False),
                      ("acks_on_timeout", False), ("acks_on_failure", False)):  # fmt: skip
        if options.get(name) is bad:
            raise DeclarationError(
                name,
                f"task {task.name} would be delivered again after its dead letter was written",
                f"Remove {name}={bad}: the governor decides what runs again",
            )


def govern(task: Any) -> None:
    """Make a task type governed: acknowledged late, its requests and its body ours. Doing it
    again changes nothing."""
    if _is_governed(task):
        return
    # On the instance: settings of the whole app must not acknowledge a task before its end is
    # recorded, nor have Celery send it again beside the governor.
    task.acks_late = True
    task.acks_on_failure_or_timeout = task.acks_on_failure = task.acks_on_timeout = True
    task.reject_on_worker_lost = task.retry_on_worker_lost = False
    # Inside Celery's own retries, which would take a "not now" for a failure.
    run = "_orig_run" if "_orig_run" in vars(task) else "run"
    setattr(task, run, _governed_body(task, getattr(task, run)))
    task.governed = True
    kind, known = task.__class__, task.__trace__
    if not isinstance(vars(kind).get("__trace__"), Tracer):
        kind.__trace__ = Tracer()
        task.__trace__ = known


def _is_governed(task: Any) -> bool:
    # Not asked of its body: a library may have put its own around it.
    return bool(vars(task).get("governed"))


def _governed_body(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with an admission before it and its failures made decisions after it."""

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
            with nested_calls.watched() as calls:
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
    """The same in eager mode, where Celery runs the next attempt inside this one. A direct call
    is the caller's to repeat."""
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
    call = Call(plan, charges_of(plan, Header(), args, kwargs), Header())
    patience = min(governor.settings.inline_wait, plan.upstream.max_wait)
    admitted_at_its_slot(governor.admission, governor.clock, call, patience)
