"""Publishing: a task that no worker could run is refused, any other's message gets a header."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from secrets import token_hex
from typing import Any

from celery import Celery, signals

from governor.errors import ConfigurationError
from governor.log_lines import LOG
from governor.messages.header import NAME, Header, work_id
from governor.policy.plan import Governance
from governor.producer.load_shedding import LoadShedding
from governor.redaction.argument_reprs import NO_MASKS, Masks, masks_kept, shown
from governor.redaction.redactor import Redactor

_SENT = ("name", "args", "kwargs")
"""The first arguments of Celery's ``send_task``."""

_publishing: ContextVar[tuple[Any, Masks]] = ContextVar(
    "governor_publishing", default=(None, NO_MASKS)
)
"""The governed app that is publishing in this context, and what its caller wants to be shown."""


class PublishHook:
    """The publishing side of one app: it refuses tasks, and stamps their messages with a header.

    Args:
        governance: how a task type is governed; ``None`` when it is not.
        redactor: hides secrets in what is shown of arguments.
        door: refuses what would only wait.
    """

    def __init__(
        self,
        app: Celery,
        governance: Callable[[str], Governance | None],
        redactor: Callable[[], Redactor],
        door: Callable[[], LoadShedding],
    ) -> None:
        self._app = app
        self._governance = governance
        self._redactor = redactor
        self._door = door
        self._complaint = ""
        _name_publisher(app, self)
        signals.before_task_publish.connect(self._before_publish)

    def check(self, name: object, args: Any, kwargs: Any) -> None:
        """Refuse what is about to be published in the caller's hands, where a worker could only
        make it a dead letter. Too many that wait are no reason while a task runs: the next link
        of a chain, a chord's body and a retry would be lost.

        Raises:
            DeclarationError: it has no cost, or a value of its arguments no name.
            Overloaded: too many wait.
        """
        try:
            governance = self._governance(str(name))
        except Exception:
            # Said where the message is stamped, and when the worker starts.
            return
        if governance is None:
            return
        plan, args, kwargs = governance.plan, args or (), kwargs or {}
        # Celery itself refuses arguments of another shape.
        shaped = isinstance(args, list | tuple) and isinstance(kwargs, Mapping)
        if plan.signature is not None and shaped:
            plan.check(args, kwargs)
        if plan.upstream.max_waiting is not None and self._app.current_worker_task is None:
            self._door().check(plan.upstream, plan.task)

    def _before_publish(
        self, sender: str = "", body: Any = None, headers: Any = None, **_: Any
    ) -> None:
        """The ``before_task_publish`` hook. A message it cannot stamp is sent as it is: the
        worker computes what the header lacks."""
        app, masks = _publishing.get()
        if app is not self._app:
            return
        try:
            if isinstance(headers, dict):
                self._stamp(sender, body, headers, masks)
        except ConfigurationError as exc:
            # It would be the same for every message: said once, until something else is wrong.
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                LOG.error("Task %s was published without a governor header: %s", sender, exc)
        except Exception:
            LOG.exception("Task %s was published without a governor header", sender)

    def _stamp(self, name: str, body: Any, headers: dict[str, Any], masks: Masks) -> None:
        governance = self._governance(name)
        if governance is None or not isinstance(body, tuple):
            return
        args, kwargs = body[0], body[1]
        plan = governance.plan
        before = Header.from_message(headers)
        work = work_id(str(headers.get("id")), headers.get("replaced_task_nesting"))
        # A body may pass its own headers on to other tasks; only attempts of the same task are
        # the same work.
        again = before.is_of(work)
        key = before.key_of(work)
        limits: dict[str, int] = {}
        if plan.signature is not None or not any(limit.per for _, limit in plan.limits):
            # Without the task's signature nobody knows which argument is the account: then the
            # worker, which has it, computes the buckets.
            charges, costs = plan.charges(args, kwargs), plan.costs(args, kwargs)
            limits = {c.bucket: cost for c, cost in zip(charges, costs, strict=True)}
        header = Header(
            upstream=plan.upstream.name,
            limits=limits,
            mid=token_hex(6),
            idem=key,
            of=work if key != work else None,
            began=before.began if again else None,
            attempts=before.attempts if again else (),
            replay_of=before.replay_of if again else self._replayed(headers),
            fair=plan.tenant(args, kwargs) if plan.signature is not None else None,
        )  # fmt: skip
        kept = masks_kept(masks, self._running(headers), args, kwargs)
        reprs = shown(self._redactor(), args, kwargs, plan.names(), kept)
        # All of it or nothing: what stands above may fail.
        headers[NAME] = header.to_message()
        headers["argsrepr"], headers["kwargsrepr"] = reprs

    def _replayed(self, headers: Mapping[str, Any]) -> str | None:
        """Name the dead letter that the running task replays, if this message replaces the task:
        the replay has succeeded when what replaces it has."""
        request = self._running(headers)
        if request is None or headers.get("replaced_task_nesting") != _nesting(request) + 1:
            return None
        return Header.from_message({NAME: getattr(request, NAME, None)}).replay_of

    def _running(self, headers: Mapping[str, Any]) -> Any:
        """Return the running task's request, if the message is published under its task id."""
        task = self._app.current_worker_task
        request = None if task is None else task.request
        return request if request is not None and request.id == headers.get("id") else None


def _nesting(request: Any) -> int:
    """Count the replacements that led to a task's request."""
    return int(request.replaced_task_nesting or 0)


def _name_publisher(app: Celery, publishing: PublishHook) -> None:
    """Check what an app publishes, and remember which app it is.

    ``before_task_publish`` fires for every Celery app in the process and does not say which.
    """
    own = vars(app).get("send_task")

    @wraps(app.send_task)
    def send_task(*args: Any, **kwargs: Any) -> Any:
        given = [args[at] if len(args) > at else kwargs.get(name) for at, name in enumerate(_SENT)]
        publishing.check(*given)
        mark = _publishing.set((app, (kwargs.get("argsrepr"), kwargs.get("kwargsrepr"))))
        try:
            return (own or _of_class(app, "send_task"))(*args, **kwargs)
        finally:
            _publishing.reset(mark)

    app.send_task = send_task


def _of_class(app: Celery, name: str) -> Any:
    """Return the attribute of the app's class, bound to ``app``, past one that ``app`` has itself.
    Looked up at each call: a library that traces may replace it in the class at any time."""
    found = inspect.getattr_static(type(app), name)
    bind = getattr(type(found), "__get__", None)
    return found if bind is None else bind(found, app, type(app))
