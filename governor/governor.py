"""The composition root: builds each part once, from the app's settings, and wires them.

It decides nothing; it only looks up how a task type is declared.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app import utils

from governor import settings as settings_
from governor.admission.admission import AdmissionService
from governor.admission.corrections import Corrections
from governor.admission.lease_renewal import LeaseRenewal
from governor.clock import Clock, SystemClock
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.spill import Spill
from governor.errors import ConfigurationError, DeclarationError
from governor.events import Emitter
from governor.log_lines import LOG, ONE_LINE
from governor.policy.limits import Limit
from governor.policy.options import checked
from governor.policy.plan import CallPlan, Governance
from governor.policy.upstream import UpstreamDeclaration
from governor.ports import LimiterStore
from governor.producer.load_shedding import LoadShedding
from governor.producer.stamp import PublishHook
from governor.redaction.redactor import Redactor
from governor.settings import Settings
from governor.stores.redis.store import RedisStore

# Named, not imported: the bootstep is an interface and lies above this module.
BOOTSTEP = "governor.worker.bootstep:DispatcherStep"
_MASKED = "GOVERNOR_REDIS_URL"


@checked
class Governor:
    """Governs one Celery app.

    Creating it installs everything: the ``before_task_publish`` hook that stamps messages, and
    the worker bootstep that decides and captures. Settings are read from ``app.conf``
    (``governor_*``) when first needed.

    Args:
        app: the Celery app.
        clock: the machine's clocks; tests pass their own.
        store: where limits are kept; by default the Redis of ``governor_redis_url``.

    Attributes:
        events: tells listeners of this process what happens; see ``docs/events.md``.

    Raises:
        ConfigurationError: the app has a governor already.
    """

    def __init__(
        self, app: Celery, *, clock: Clock | None = None, store: LimiterStore | None = None
    ) -> None:
        if not isinstance(app, Celery):
            raise ConfigurationError(
                f"Governor(app): {app!r} is not a Celery app. Give the app itself"
            )
        if getattr(app, "governor", None) is not None:
            raise ConfigurationError("Governor(app): this app already has a governor. Create one")
        self.app = app
        self.clock: Clock = clock or SystemClock()
        self.events = Emitter()
        self.dispatcher: Any = None  # the worker's, once there is one
        self._store = store
        self._governances: dict[str, Governance | None] = {}
        app.governor = self
        LOG.logger.addFilter(ONE_LINE)
        app.steps["consumer"].add(BOOTSTEP)
        self._publish_hook = PublishHook(
            app, self.governance, lambda: self.redactor, lambda: self.door
        )
        _mask_settings()

    @staticmethod
    def of(app: Any) -> Governor:
        """The app's governor.

        Raises:
            ConfigurationError: it has none.
        """
        governor = getattr(app, "governor", None)
        if not isinstance(governor, Governor):
            raise ConfigurationError(
                f"App {getattr(app, 'main', None)!r} has no governor for its tasks and calls. "
                "Write Governor(app) where the app is created"
            )
        return governor

    @cached_property
    def settings(self) -> Settings:
        """The validated settings.

        Raises:
            ConfigurationError: naming the setting and the remedy.
        """
        conf = self.app.conf
        settings = settings_.load(conf, {key for mapping in conf.maps for key in mapping})
        for each in settings.upstreams:
            if not isinstance(each, UpstreamDeclaration):
                raise ConfigurationError(
                    f"governor_upstreams: {each!r} is not an Upstream. Write [Upstream(…)]"
                )
        return settings

    @cached_property
    def store(self) -> LimiterStore:
        """Where limits are kept."""
        if self._store is not None:
            return self._store
        settings = self.settings
        return RedisStore(settings.redis_url, timeout=settings.timeout, prefix=settings.prefix)

    @cached_property
    def admission(self) -> AdmissionService:
        """The way to ask for a call's admission."""
        return AdmissionService(self.store, self.settings, self.clock, self.events)

    @cached_property
    def lease_renewal(self) -> LeaseRenewal:
        """Renews what calls hold that this process makes inside tasks or outside a worker."""
        return LeaseRenewal(self.store, self.clock, self.events)

    @cached_property
    def corrections(self) -> Corrections:
        """Tells the store what calls turned out to cost, and what upstreams say is used."""
        return Corrections(self.store, self.admission.in_force, self.clock)

    @cached_property
    def door(self) -> LoadShedding:
        """Refuses what would only wait."""
        return LoadShedding(self.store, self.clock, self.events)

    @cached_property
    def redactor(self) -> Redactor:
        """Hides secrets in whatever is shown or written."""
        return Redactor(keys=self.settings.redact)

    @cached_property
    def dead_letters(self) -> SqlDeadLetters:
        """The dead-letter table."""
        return SqlDeadLetters(
            self.settings.database_url, redact=self.redactor.text, clock=self.clock
        )

    @cached_property
    def spill(self) -> Spill:
        """Where dead letters wait while the database is away."""
        return Spill(self.settings.spill_dir, redact=self.redactor.text)

    def rest(self) -> None:
        """Give back the connections and threads that this process has open; they are opened again
        when they are needed."""
        made = vars(self)
        if "lease_renewal" in made:
            self.lease_renewal.rest()
        if "dead_letters" in made:
            self.dead_letters.close()
        if "store" in made:
            self.store.close()

    @cached_property
    def upstreams(self) -> Mapping[str, UpstreamDeclaration]:
        """Every upstream by name: those of the registered tasks, and ``governor_upstreams``.

        Raises:
            DeclarationError: two declarations share a name.
        """
        found: dict[str, UpstreamDeclaration] = {}
        declared = [_upstream_of(task) for task in self.app.tasks.values()]
        for upstream in [*self.settings.upstreams, *declared]:
            if upstream is None or found.setdefault(upstream.name, upstream) is upstream:
                continue
            raise DeclarationError(
                "upstream",
                f"{upstream.name!r} is declared twice",
                "Declare it once and import it where it is used",
            )
        return found

    def governance(self, task: str) -> Governance | None:
        """How a task type is governed, by its declaration or by ``governor_routes``; ``None`` when
        it is not.

        Raises:
            DeclarationError: its declaration cannot work.
        """
        if not (self.app.finalized or self.app.autofinalize):
            # What its tasks declare is known when its author finalizes it, and not before.
            return None
        try:
            return self._governances[task]
        except KeyError:
            governance = self._governances[task] = self._find_governance(task)
            return governance

    def governed(self) -> list[tuple[str, str]]:
        """List the registered task types that are governed, each with its upstream."""
        found = ((name, self.governance(name)) for name in self.app.tasks)
        return [(name, each.plan.upstream.name) for name, each in found if each is not None]

    def _find_governance(self, name: str) -> Governance | None:
        try:
            task = self.app.tasks[name]
        except KeyError:
            task = None
        upstream = _upstream_of(task)
        signature = None if task is None else inspect.signature(task.run)
        if upstream is not None:
            own: Sequence[Limit] = getattr(task, "limits", ())
            plan = CallPlan.of(name, upstream, own, signature)
            return Governance(plan, bool(task.idempotent), task.retry_policy)
        routed = self.settings.route(name)
        if routed is None:
            return None
        if routed not in self.upstreams:
            known = ", ".join(sorted(self.upstreams)) or "none"
            raise DeclarationError(
                "governor_routes",
                f"task {name} is routed to {routed!r}, which no upstream is called ({known})",
                "Add it to governor_upstreams",
            )
        plan = CallPlan.of(name, self.upstreams[routed], (), signature)
        return Governance(plan, idempotent=False, retry=None)


def _upstream_of(task: Any) -> UpstreamDeclaration | None:
    """The upstream that a task declares; an attribute of this name may also be something else.

    Raises:
        DeclarationError: the task is no governed one, and would run with no limit.
    """
    upstream = getattr(task, "upstream", None)
    if not isinstance(upstream, UpstreamDeclaration):
        return None
    if not hasattr(task, "retry_policy"):
        raise DeclarationError(
            "base",
            f"task {task.name} declares an upstream but is no GovernedTask: it would run with no "
            "limit",
            "Add base=GovernedTask",
        )
    return upstream


def _mask_settings() -> None:
    """Mask the limiter's URL in ``celery report`` and ``inspect conf``. Celery masks settings whose
    names fit a pattern, which the database's URL does already."""
    known = utils.HIDDEN_SETTINGS
    if _MASKED not in known.pattern:
        utils.HIDDEN_SETTINGS = re.compile(f"{known.pattern}|{_MASKED}", known.flags)
