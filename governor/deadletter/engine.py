"""Connections to the dead-letter database that never make a worker wait long.

Every statement, wait for a lock, wait for a connection and connection attempt is bounded. A
connection pooler may stand before PostgreSQL, like PgBouncer, which gives each transaction another
server: nothing is set at a connection's start, and nothing is kept between transactions.
On PostgreSQL a whole transaction is, by the client: a server that has stopped answering
cannot be asked to keep its own ``statement_timeout``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from governor.clock import SystemClock, micros
from governor.errors import ConfigurationError, DatabaseUnavailable

TIMEOUT = 2.0
"""Seconds a call to the database may take."""

_CLOCK = SystemClock()
_deadline: ContextVar[int | None] = ContextVar("governor_database_deadline", default=None)


def bounded_engine(url: str | URL, *, timeout: float = TIMEOUT) -> Engine:
    """An engine whose calls end within about ``timeout`` seconds.

    Raises:
        ConfigurationError: not a SQLite file or a PostgreSQL database, or no driver for it.
    """
    parsed = _parse(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed, timeout)
        return _postgres(parsed, timeout)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"database: {error.name} is not installed. pip install 'celery-governor[postgres]'"
        ) from error


@contextmanager
def bounded(engine: Engine, *, timeout: float = TIMEOUT, write: bool) -> Iterator[Connection]:
    """One transaction of at most ``timeout`` seconds.

    Raises:
        DatabaseUnavailable: nothing was changed.
    """
    mark = _deadline.set(_CLOCK.monotonic() + micros(timeout))
    try:
        with engine.connect() as opened:
            connection = opened.execution_options(governor_write=write)
            with connection.begin():
                yield connection
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(explain(error, engine)) from error
    finally:
        _deadline.reset(mark)


def explain(error: SQLAlchemyError, engine: Engine) -> str:
    """One line for people: what the database said (never the values sent to it) and where."""
    what = first_line(error)
    where = shown(engine.url)
    missing = "no such table" in what or "no such column" in what or "does not exist" in what
    remedy = " Run `governor db upgrade`." if missing else ""
    return f"The dead-letter database {where} did not answer: {what}.{remedy}"


def first_line(error: BaseException | None) -> str:
    """Return the first line of the database's own message, never the values sent to it."""
    said = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
    return said[0] if said else type(error).__name__


_OF_A_ROW = ("22", "23", "44", "54", "P0")
"""Classes of PostgreSQL's errors about the data of one row: a value, a constraint, a size, a
trigger's own."""


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether the database is there and refuses the data it was given."""
    if isinstance(error, DataError | IntegrityError):
        return True
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return isinstance(state, str) and state.startswith(_OF_A_ROW)


def shown(url: URL) -> str:
    """The URL for people: no password, wherever it stands in it."""
    secret = {name: "***" for name in url.query if "password" in name.lower()}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "database: not a database URL. Write sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from error
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise ConfigurationError(
            f"database: {parsed.drivername!r} is not supported. "
            "Use a sqlite or postgresql (psycopg) URL"
        )
    in_memory = parsed.database in {None, "", ":memory:"} or parsed.query.get("mode") == "memory"
    if parsed.get_backend_name() == "sqlite" and in_memory:
        raise ConfigurationError(
            "database: an in-memory SQLite database is lost with its process. "
            "Name a file: sqlite:///dead-letters.sqlite"
        )
    return parsed


def _sqlite(url: URL, timeout: float) -> Engine:
    engine = create_engine(url, pool_timeout=timeout / 2, connect_args={"timeout": timeout})

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        # The module's own transactions begin too late to be safe: we send BEGIN ourselves.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")  # a row is on disk before its ack

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock now, within the busy timeout; a transaction that
        # first reads and then writes would be refused without any wait.
        write = connection.get_execution_options().get("governor_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgres(url: URL, timeout: float) -> Engine:
    import psycopg
    from psycopg.waiting import READY_NONE

    class BoundedConnection(psycopg.Connection[Any]):
        """A connection that closes itself when the transaction's deadline passes unanswered."""

        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
            until = _deadline.get()
            if until is None:
                return super().wait(gen, *args, **options)
            try:
                return super().wait(_until(gen, until, READY_NONE), *args, **options)
            except TimeoutError as error:
                self.close()
                raise psycopg.OperationalError(f"no answer within {timeout:g} s") from error

    url, wanted = _taken_options(url)
    engine = create_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_timeout=timeout / 2,
        pool_pre_ping=True,  # a restarted server is no reason to spill
        connect_args={
            "connect_timeout": max(2, int(timeout)),  # libpq knows nothing shorter
            "prepare_threshold": None,  # what one server has prepared, the next does not know
            "application_name": "governor",
        },
    )
    millis = int(timeout * 1000)
    bounds = {
        **wanted,
        "statement_timeout": str(millis),
        "lock_timeout": str(millis),
        "idle_in_transaction_session_timeout": str(10 * millis),
    }
    settings = "SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(bounds))
    words = tuple(word for pair in bounds.items() for word in pair)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(settings, words)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, args: Any, options: Any) -> Any:
        until = _deadline.get()
        if until is not None and _CLOCK.monotonic() >= until:
            # The time went on a connection that did not answer: no second helping.
            raise psycopg.OperationalError(f"no answer within {timeout:g} s")
        return BoundedConnection.connect(*args, **options)

    return engine


_OPTION = re.compile(r"(?:-c\s*|--)([\w.]+)=((?:[^\s\\]|\\.)*)(?:\s+|$)")


def _taken_options(url: URL) -> tuple[URL, dict[str, str]]:
    """Take the run-time parameters out of the URL's ``options``; others stay. A pooler refuses or
    drops them at a connection's start, so they are set for each transaction."""
    given = url.query.get("options")
    if not isinstance(given, str):
        return url, {}
    found = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _OPTION.findall(given.strip())}
    rest = _OPTION.sub("", given.strip()).strip()
    url = url.difference_update_query(["options"])
    return (url.update_query_dict({"options": rest}) if rest else url), found


def _until(
    gen: Generator[Any, Any, Any], until: int, nothing_ready: object
) -> Generator[Any, Any, Any]:
    """Drive ``gen``; raise TimeoutError when nothing is ready at ``until`` (monotonic µs)."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready == nothing_ready and _CLOCK.monotonic() > until:
                gen.close()
                raise TimeoutError
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value
