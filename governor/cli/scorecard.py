"""``governor scorecard``: a month in figures."""

from __future__ import annotations

from typing import Any

import click

from governor.cli import options, printing
from governor.cli.environment import Environment
from governor.cli.limits_view import span
from governor.cli.printing import when
from governor.clock import seconds
from governor.operations.scorecard import Scorecard


@click.command("scorecard", short_help="A month in figures: changes, deaths, resolutions.")
@click.option("--month", metavar="YYYY-MM", help="In UTC; the current one by default.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.pass_obj
@options.exit_codes
def scorecard(environment: Environment, month: str | None, as_json: bool) -> int:
    """Tell how a month went, from what is recorded.

    Limits changed by people, deaths by reason and task, the mean time from a group's first death to
    its resolution, and the share of task types that declare what a failure leads to.

    \b
    Example:
      governor -A proj scorecard --month 2026-11

    \b
    Exit codes: 0 done, 2 usage, 6 limiter store or database unreachable.
    """
    found = environment.scorecard(month)
    if as_json:
        printing.as_json(_for_programs(found))
    else:
        _for_people(found)
    return 0


def _for_people(found: Scorecard) -> None:
    click.echo(f"{found.month.name}: limits changed by people")
    changes = ((c.upstream, c.what, c.count, c.people) for c in found.changes)
    printing.table(("upstream", "change", "times", "people"), changes, right="times")
    for upstream in found.changes_missing:
        click.echo(f"{printing.printable(upstream)}: more was recorded than is kept", err=True)
    click.echo(f"\n{found.month.name}: deaths")
    deaths = ((d.reason, d.task, d.count) for d in found.deaths)
    printing.table(("reason", "task", "rows"), deaths, right="rows")
    lasted, types = found.resolution, len(found.types)
    share = "" if found.share is None else f" ({found.share:.0%})"
    rows = [
        ("groups resolved", lasted.resolved),
        ("mean time from first death to resolution", span(lasted.mean)),
        ("groups not resolved at the end", lasted.open),
        ("the oldest of them began", when(lasted.oldest)),
        ("governed task types", types),
        ("  that declare their idempotency", found.with_idempotency),
        ("  that declare what a failure leads to", f"{found.with_contract}{share}"),
        ("other task types", found.ungoverned),
    ]
    click.echo()
    printing.table(("figure", "value"), rows)
    for each in found.types:
        if not each.contract:
            lacks = _lacks(each.declared, each.idempotency)
            click.echo(f"{printing.printable(each.name)}: declares no {lacks}", err=True)


def _lacks(declared: bool, idempotency: bool) -> str:
    if not declared:
        return "upstream of its own (a route names it)"
    return "retry policy" if idempotency else "idempotency"


def _for_programs(found: Scorecard) -> dict[str, Any]:
    """The scorecard for JSON. Spans are seconds; what is absent is null."""
    lasted = found.resolution
    return {
        "month": found.month.name,
        "since": when(found.month.since),
        "before": when(found.month.before),
        "changes": [
            {"upstream": c.upstream, "change": c.what, "times": c.count, "people": c.people}
            for c in found.changes
        ],
        "changes_missing": list(found.changes_missing),
        "deaths": [{"reason": d.reason, "task": d.task, "rows": d.count} for d in found.deaths],
        "resolution": {
            "resolved": lasted.resolved,
            "mean_seconds": None if lasted.mean is None else seconds(lasted.mean),
            "open": lasted.open,
            "oldest_open_since": when(lasted.oldest),
        },
        "task_types": {
            "governed": len(found.types),
            "other": found.ungoverned,
            "with_idempotency": found.with_idempotency,
            "with_contract": found.with_contract,
            "share": None if found.share is None else round(found.share, 4),
            "without_contract": [each.name for each in found.types if not each.contract],
        },
    }
