"""``governor doctor``: is this application set up so that the guarantees hold?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from governor.cli.doctor import application, dead_letters, store, workers
from governor.cli.doctor.finding import Finding, Level
from governor.cli.environment import Environment
from governor.errors import GovernorError


@click.command(short_help="Is this application set up so that the guarantees hold?")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_obj
def doctor(environment: Environment, as_json: bool) -> None:
    """Look at an application's settings, its Redis, its database and its task declarations.

    Changes nothing. Exit codes: 0 nothing wrong (there may be warnings), 1 an error was found,
    2 usage.

    \b
    Example:
      governor -A proj doctor
    """
    findings = list(examine(environment))
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}))
    else:
        _show(findings)
    raise SystemExit(1 if failed else 0)


def examine(environment: Environment) -> Iterator[Finding]:
    """Give every finding, in the order in which a person would mend them."""
    governor = environment.governor()
    try:
        settings = governor.settings
    except GovernorError as exc:
        problem, _, remedy = str(exc).partition(". ")
        yield Finding("settings", "error", problem, remedy)
        return
    yield Finding("settings", "ok", "every governor_* setting can be used")
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: application.tasks(governor),
        lambda: application.serializers(governor),
        lambda: application.visibility(governor, settings),
        lambda: store.server(settings),
        lambda: store.permissions(settings),
        lambda: store.upstreams(governor),
        lambda: store.parking(governor, settings),
        lambda: dead_letters.database(environment),
        lambda: dead_letters.spill(settings),
        lambda: workers.starts(environment),
        lambda: workers.queues(environment),
    ]
    for check in checks:
        yield from check()


def _show(findings: list[Finding]) -> None:
    styles: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table("check", "", "found", "remedy", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(
            finding.check,
            Text(finding.level, style=styles[finding.level]),
            Text(finding.message),
            Text(finding.remedy),
        )
    Console(width=None).print(table)
