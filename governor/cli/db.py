"""``governor db``: the tables the dead letters are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from sqlalchemy import Engine

from governor.deadletter import schema
from governor.deadletter.engine import TIMEOUT, bounded_engine
from governor.errors import ConfigurationError, DatabaseUnavailable

_MIGRATION_SECONDS = 600.0
_UNREACHABLE = 6

_database = click.option(
    "--database",
    metavar="URL",
    help="sqlite:///PATH or postgresql://USER@HOST/NAME; else the application's own setting.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group("db", short_help="Make and check the dead-letter tables.")
def db() -> None:
    """Make and check the dead-letter tables.

    Exit codes: 0 done, 1 behind or drifted (check), 2 usage, 6 database unreachable.
    """


@db.command("upgrade")
@_database
@_json
@click.pass_context
def upgrade(context: click.Context, database: str | None, as_json: bool) -> None:
    """Bring the tables to this version's revision, keeping their rows.

    \b
    Example:
      governor db upgrade --database postgresql://me@db.example/app
    """
    with _engine(context, database, _MIGRATION_SECONDS) as engine:
        before = schema.check(engine)
        if before.current != before.head:
            schema.upgrade(engine)
        after = schema.check(engine)
    if as_json:
        click.echo(json.dumps({"from": before.current, "to": after.current}))
    elif before.current == after.current:
        click.echo(f"Already at revision {after.current}.")
    else:
        click.echo(f"From {before.current or 'no tables'} to revision {after.current}.")


@db.command("check")
@_database
@_json
@click.pass_context
def check(context: click.Context, database: str | None, as_json: bool) -> None:
    """Say whether the tables are the ones this version expects. Changes nothing.

    \b
    Example:
      governor db check --json
    """
    with _engine(context, database, TIMEOUT) as engine:
        state = schema.check(engine)
    remedies = schema.remedies(state)
    if as_json:
        click.echo(json.dumps({**asdict(state), "good": state.good, "remedies": list(remedies)}))
    elif state.good:
        click.echo(f"At revision {state.current}, no drift.")
    else:
        click.echo("\n".join(remedies), err=True)
    if not state.good:
        context.exit(1)


@contextmanager
def _engine(context: click.Context, url: str | None, timeout: float) -> Iterator[Engine]:
    """The database to work on; what goes wrong with it becomes an exit code."""
    try:
        engine = bounded_engine(
            url if url is not None else context.obj.database_url(), timeout=timeout
        )
        try:
            yield engine
        finally:
            engine.dispose()
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    except DatabaseUnavailable as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(_UNREACHABLE) from error
