"""The task base class, and what makes a task type a governed one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from functools import wraps
from typing import Any
from uuid import uuid4

from celery import Task

from governor.admission.call import charges_of
from governor.errors import DeclarationError
from governor.governor import BOOTSTEP, Governor
from governor.messages.header import NAME, Header, work_id
from governor.policy.limits import Limit
from governor.policy.retry import Retry
from governor.policy.upstream import UpstreamDeclaration
from governor.worker.body import governed_body
from governor.worker.body_results import RUN_KEY
from governor.worker.declaration_check import check_governed, check_ungoverned
from governor.worker.failures import Tracer, with_attempt


class _Bind:
    """Celery's ``bind``, which makes a task ready to use, and governed. Until then the task's class
    and its own ``__init__`` may declare something; neither has to call the governor."""

    def __get__(self, task: Any, owner: type[GovernedTask]) -> Any:
        celery: Any = super(GovernedTask, owner).bind  # type: ignore[misc]
        if task is None:
            return celery

        @wraps(celery)
        def bind(app: Any) -> Any:
            try:
                # Before Celery gives the class the app's defaults, which are not declared.
                declare(task)
                if task.upstream is not None:
                    # A worker without a governor would fail each of its tasks: so it refuses.
                    app.steps["consumer"].add(BOOTSTEP)
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
        """Correct the cost of this execution's call: the difference is charged, or given back. Of
        several corrections the last counts. While the limiter store is away, they are lost.

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
        check_ungoverned(task)
    elif not _is_governed(task):
        check_governed(task)
        govern(task)


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
    setattr(task, run, governed_body(task, getattr(task, run)))
    task.governed = True
    kind, known = task.__class__, task.__trace__
    if not isinstance(vars(kind).get("__trace__"), Tracer):
        kind.__trace__ = Tracer()
        task.__trace__ = known


def _is_governed(task: Any) -> bool:
    # Not asked of its body: a library may have put its own around it.
    return bool(vars(task).get("governed"))
