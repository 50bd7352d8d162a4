"""``governor``, which is also ``celery -A proj governor``."""

from __future__ import annotations

import sys

import click

import governor as package
from governor.cli import environment
from governor.cli.db import db
from governor.cli.dead import dead
from governor.cli.demo import demo
from governor.cli.doctor.command import doctor
from governor.cli.explain import explain
from governor.cli.exporter import exporter
from governor.cli.limits import limits
from governor.cli.scorecard import scorecard
from governor.cli.waiting import waiting
from governor.errors import GovernorError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="governor")
@click.option("-A", "--app", metavar="APP", help="Your Celery application, like proj or proj:app.")
@click.option(
    "--database",
    metavar="URL",
    envvar="GOVERNOR_DATABASE_URL",
    help="The dead letters' database, instead of the application's setting.",
)
@click.pass_context
def governor(context: click.Context, app: str | None, database: str | None) -> None:
    """Limits, waiting tasks and dead letters of Celery workers that call other people's APIs.

    \b
    Example:
      governor -A proj doctor
      governor -A proj limits payments --watch
      governor -A proj waiting --by tenant
      governor --database sqlite:///dead.sqlite dead groups --since 24h
    """
    context.obj = environment.of(context.obj, app, database)


for command in (db, dead, demo, doctor, explain, exporter, limits, scorecard, waiting):
    governor.add_command(command)


def main() -> None:
    """The console script: an error of ours is a sentence, not a traceback."""
    try:
        governor(prog_name="governor")
    except GovernorError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(2)
