"""The dead-letter tables' revisions: applied, and compared with what the code expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from governor.deadletter.engine import explain
from governor.deadletter.models import Base
from governor.errors import ConfigurationError, DatabaseUnavailable

VERSION_TABLE = "governor_alembic_version"
"""Not Alembic's own name: the database may belong to an application that uses Alembic too."""
_OURS = "governor_"
_LOCK = 0x676F7665726E6F72  # any number, the same for everyone who upgrades


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The finding of :func:`check`.

    Attributes:
        current, head: the revision the database is at (``None``: no tables) and ours.
        drift: differences between tables and models, in words; empty when there are none.
    """

    current: str | None
    head: str
    drift: tuple[str, ...]

    @property
    def good(self) -> bool:
        """At our revision and without drift."""
        return self.current == self.head and not self.drift


def script_location() -> Path:
    """The migrations: inside the installed package, or beside it in a source tree.

    Raises:
        ConfigurationError: they are in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(
        f"migrations: not in {package} and not beside it. Install celery-governor again"
    )


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to ``revision``, all or nothing; safe to run from several places.

    Raises:
        ConfigurationError: the database is at a revision this version does not know.
        DatabaseUnavailable: nothing was changed.
    """
    _run(engine, lambda config: command.upgrade(config, revision))


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to ``revision`` (``base``: none), all or nothing.

    Raises:
        ConfigurationError: the database is at a revision this version does not know.
        DatabaseUnavailable: nothing was changed.
    """
    _run(engine, lambda config: command.downgrade(config, revision))


def check(engine: Engine) -> SchemaState:
    """Compare the database with the models. Changes nothing.

    Raises:
        DatabaseUnavailable
    """
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    try:
        with engine.connect() as opened:
            connection = opened.execution_options(governor_write=False)
            context = migration_context(connection)
            current = context.get_current_revision()
            drift = () if current is None else _drift(connection, context)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(explain(error, engine)) from error
    return SchemaState(current, head, drift)


def migration_context(connection: Connection) -> MigrationContext:
    """Alembic's view of our tables and of no others."""
    return MigrationContext.configure(connection, opts=context_options())


def context_options() -> dict[str, Any]:
    """The options under which our migrations run and are compared."""
    return {
        "version_table": VERSION_TABLE,
        "target_metadata": Base.metadata,
        "compare_type": True,
        "compare_server_default": False,  # each database spells them its own way
        "transaction_per_migration": False,
        "include_name": lambda name, kind, _parents: (
            kind != "table" or ((name or "").startswith(_OURS) and name != VERSION_TABLE)
        ),
    }


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # Alembic reads options with % interpolation.
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _run(engine: Engine, revise: Any) -> None:
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                # Readers never wait for the writer; kept in the file, so once is enough.
                # Outside of a transaction, where SQLite allows it.
                raw = connection.connection.dbapi_connection
                assert raw is not None
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                revise(_config(connection))
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(explain(error, engine)) from error
    except CommandError as error:
        raise ConfigurationError(
            f"database: {error}. If a newer governor made its tables, install that one"
        ) from error


def _drift(connection: Connection, context: MigrationContext) -> tuple[str, ...]:
    found = [_say(difference) for difference in compare_metadata(context, Base.metadata)]
    return tuple(found + _partial_index_drift(connection))


def _say(difference: Any) -> str:
    if isinstance(difference, list):  # changes of one column
        return "; ".join(_say(part) for part in difference)
    kind, *what = difference
    names = [getattr(part, "name", part) for part in what]
    return f"{kind.replace('_', ' ')} {' '.join(str(name) for name in names if name is not None)}"


def _partial_index_drift(connection: Connection) -> list[str]:
    """Alembic does not compare the WHERE of an index: we do."""
    dialect = connection.dialect.name
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    drift: list[str] = []
    for table in Base.metadata.sorted_tables:
        if table.name not in tables:
            continue  # said already
        actual = {
            str(index["name"]): index.get("dialect_options", {}).get(f"{dialect}_where")
            for index in inspector.get_indexes(table.name)
        }
        for index in table.indexes:
            wanted = index.dialect_options[dialect]["where"]
            if index.name in actual and _condition(wanted) != _condition(actual[str(index.name)]):
                drift.append(
                    f"index {index.name} is for rows where {actual[str(index.name)]}, "
                    f"not where {wanted}"
                )
    return drift


def _condition(where: object) -> str | None:
    """A WHERE without what PostgreSQL adds when it stores one: casts and parentheses."""
    if where is None:
        return None
    bare = re.sub(r"::[a-z]+( varying)?", "", str(where).lower())
    return re.sub(r"[()\s]+", " ", bare).strip()


def remedies(state: SchemaState) -> Sequence[str]:
    """Say what is wrong with the schema and what to do about it; empty when nothing is."""
    said: list[str] = []
    if state.current is None:
        said.append("There are no dead-letter tables. Run `governor db upgrade`.")
    elif state.current != state.head:
        said.append(
            f"The database is at revision {state.current}, this version of the governor wants "
            f"{state.head}. Run `governor db upgrade`; if it does not know {state.current}, "
            "install the newer governor that made it."
        )
    else:
        said.extend(
            f"Drift: {difference}. Someone changed the tables by hand; undo that change."
            for difference in state.drift
        )
    return said
