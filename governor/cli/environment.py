"""The object of the commands: an application and its settings, or options instead of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
from celery import Celery
from celery.app.utils import find_app

from governor.deadletter.history import DeadLetterHistory
from governor.deadletter.repository import SqlDeadLetters
from governor.errors import ConfigurationError
from governor.events import Emitter
from governor.governor import Governor
from governor.operations.fleet_gauges import FleetGauges
from governor.operations.limit_changes import LimitChanges
from governor.operations.limit_status import LimitStatusReader
from governor.operations.parking_changes import ParkingChanges
from governor.operations.parking_status import ParkedTasks
from governor.operations.scorecard import Month, Scorecard, scorecard, task_types
from governor.ports import MessageCopy
from governor.redaction.redactor import Redactor
from governor.settings import Settings
from governor.worker.publisher import Publisher, bounded_connection
from governor.worker.revocation import announce, revoke
from governor.worker.task import GovernedTask

_HISTORY_SECONDS = 60.0
"""The longest that a question about all dead letters of a month may take."""


class Environment:
    """The application given with ``-A``, and what overrides its settings.

    Args:
        app: an application, or where to import one from, or ``None``.
        database: a database URL instead of the application's.
    """

    def __init__(self, app: Celery | str | None, database: str | None) -> None:
        self._app = app
        self._database = database

    @cached_property
    def loaded(self) -> Celery:
        """The application.

        Raises:
            click.UsageError: there is none, or it cannot be imported.
        """
        if self._app is None:
            raise click.UsageError(
                "This needs your application. Name it: governor -A proj …, or celery -A proj "
                "governor …"
            )
        if not isinstance(self._app, str):
            return self._app
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            return find_app(self._app)
        except Exception as exc:
            raise click.UsageError(
                f"-A {self._app}: {type(exc).__name__}: {exc}. Name the module of your Celery app"
            ) from exc

    def app(self) -> Celery:
        """See :attr:`loaded`."""
        return self.loaded

    def governor(self) -> Governor:
        """The application's governor.

        Raises:
            click.UsageError: it has none.
        """
        try:
            return Governor.of(self.loaded)
        except ConfigurationError as exc:
            raise click.UsageError(str(exc)) from exc

    def settings(self) -> Settings:
        """The application's settings.

        Raises:
            ConfigurationError: one of them cannot work.
        """
        return self.governor().settings

    def database_url(self) -> str:
        """The URL of the dead letters' database."""
        return self._database if self._database is not None else self.settings().database_url

    def spill_dir(self) -> str:
        """The folder in which the application's workers spill."""
        return self.settings().spill_dir

    def dead_letters(self) -> SqlDeadLetters:
        """The dead-letter table."""
        redactor = Redactor() if self._app is None else self.governor().redactor
        return SqlDeadLetters(self.database_url(), redact=redactor.text)

    def standing(self) -> LimitStatusReader:
        """The status of the application's limits, those of every task module it includes.

        Raises:
            ConfigurationError: a setting or a declaration cannot work.
        """
        governor = self.governor()
        governor.app.loader.import_default_modules()
        found = (governor.governance(name) for name in sorted(governor.app.tasks))
        plans = [governance.plan for governance in found if governance is not None]
        return LimitStatusReader(governor.store, governor.upstreams, plans, governor.clock)

    def steering(self, standing: LimitStatusReader, by: str) -> LimitChanges:
        """The way to change them."""
        return LimitChanges(self.governor().store, standing, by)

    def parked(self, standing: LimitStatusReader) -> ParkedTasks:
        """The tasks in its parking lots."""
        governor = self.governor()
        return ParkedTasks(governor.store, standing, governor.redactor.text)

    def parked_steering(self, standing: LimitStatusReader, by: str) -> ParkingChanges:
        """The way to do something to them."""
        governor = self.governor()
        return ParkingChanges(
            governor.store,
            standing,
            shown=governor.redactor.text,
            revoke=partial(revoke, governor.app),
            announce=partial(announce, governor.app),
            by=by,
        )

    def fleet_gauges(self) -> FleetGauges:
        """The gauges of the fleet that runs the application."""
        standing, governor = self.standing(), self.governor()
        return FleetGauges(
            upstreams=standing.names(),
            parked=self.parked(standing),
            count_dead=DeadLetterHistory(self.database_url()).counts,
            backlog=governor.spill.backlog,
            tasks=frozenset(governor.app.tasks),
            clock=governor.clock,
        )

    def scorecard(self, month: str | None) -> Scorecard:
        """A month in figures, the current one if none is named.

        Raises:
            ConfigurationError: the text names no month.
            StoreUnavailable, DatabaseUnavailable: no answer in time.
        """
        governor = self.governor()
        chosen = Month.at(governor.clock.wall()) if month is None else Month.named(month)
        standing = self.standing()
        history = DeadLetterHistory(self.database_url(), timeout=_HISTORY_SECONDS)
        try:
            types = task_types(governor.app.tasks, governor.governance, GovernedTask)
            return scorecard(chosen, standing, history.counts, history.episodes, types)
        finally:
            history.close()

    def high_first(self) -> bool:
        """Tell whether the broker's most urgent priority is the highest."""
        with self.loaded.connection_for_read() as connection:
            return bool(connection.transport.driver_type == "amqp")

    def ask_workers(self, command: str, arguments: Mapping[str, Any], wait: float) -> list[Any]:
        """Ask every worker; return the answers that come within ``wait`` seconds, by worker.

        Raises:
            Exception: whatever the broker's client raises.
        """
        app = self.loaded
        with bounded_connection(app) as connection:
            connection.connect()  # once: asking a broker that is away would try for ever
            return (
                app.control.broadcast(
                    command, arguments, connection=connection, reply=True, timeout=wait
                )
                or []
            )

    def events(self) -> Emitter:
        """Tells the application's listeners what is done here."""
        return self.governor().events

    def publisher(self) -> Callable[[MessageCopy], None]:
        """Publishes one message to the application's broker, confirmed."""
        return Publisher(self.loaded)


def of(obj: Any, app: str | None, database: str | None) -> Environment:
    """The environment for a command line; ``obj`` is Celery's own context in ``celery -A …``."""
    known = getattr(obj, "app", None)
    return Environment(app if app is not None else known, database)
