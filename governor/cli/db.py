"""``governor db``: the tables the dead letters are kept in."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import NoReturn

import click

from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
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
    try:
        engine = bounded_engine(_url(context, database), timeout=_MIGRATION_SECONDS)
        before = schema.check(engine)
        if before.current != before.head:
            schema.upgrade(engine)
        after = schema.check(engine)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    except DatabaseUnavailable as error:
        _unreachable(error)
    engine.dispose()
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
    try:
        engine = bounded_engine(_url(context, database))
        state = schema.check(engine)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    except DatabaseUnavailable as error:
        _unreachable(error)
    engine.dispose()
    remedies = schema.remedies(state)
    if as_json:
        click.echo(json.dumps({**asdict(state), "good": state.good, "remedies": list(remedies)}))
    elif state.good:
        click.echo(f"At revision {state.current}, no drift.")
    else:
        click.echo("\n".join(remedies), err=True)
    if not state.good:
        context.exit(1)


def _url(context: click.Context, given: str | None) -> str:
    return given if given is not None else str(context.obj.database_url())


def _unreachable(error: DatabaseUnavailable) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    raise click.exceptions.Exit(_UNREACHABLE) from error
