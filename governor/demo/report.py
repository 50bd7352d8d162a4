"""The report of a run: for people, and as one JSON object for programs."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url

from governor.clock import seconds
from governor.deadletter import engine
from governor.demo.run import RunOutcome


def as_json(outcome: RunOutcome) -> dict[str, object]:
    """The figures under the names that are a contract. Durations in seconds, latency in ms."""
    tally, stats = outcome.tally, outcome.stats
    return {
        "published": tally.published,
        "succeeded": tally.succeeded,
        "dead": tally.dead,
        "waiting": tally.waiting,
        "lost": len(tally.lost),
        "duplicated": len(tally.duplicated),
        "upstream_calls": tally.upstream_calls,
        "upstream_rejected": tally.upstream_rejected,
        "makespan_seconds": round(seconds(tally.makespan), 3),
        "ideal_seconds": round(seconds(outcome.ideal), 3),
        "limiter_calls": stats.limiter_calls,
        "broker_messages": tally.published + stats.broker_messages,
        "latency_ms": {
            "p50": stats.percentile_ms(0.50),
            "p95": stats.percentile_ms(0.95),
            "p99": stats.percentile_ms(0.99),
        },
    }


def faults(outcome: RunOutcome) -> list[str]:
    """List what is wrong with the balance, one sentence each; empty when nothing is."""
    tally = outcome.tally
    found = [
        _named("lost: published, and neither succeeded nor dead nor waiting", tally.lost),
        _named("duplicated: called again where that is forbidden", tally.duplicated),
        _named("contradicted: dead letters that deny a success, or doubled", tally.contradicted),
        _named("unexpected: called the upstream and never published", tally.unexpected),
    ]
    total = tally.succeeded + tally.dead + tally.waiting
    if total != tally.published:
        found.append(f"published {tally.published}, but succeeded + dead + waiting = {total}")
    return [sentence for sentence in found if sentence]


def print_report(outcome: RunOutcome, console: Console) -> None:
    """The summary, and where to look further."""
    tally, stats = outcome.tally, outcome.stats
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(justify="right", style="bold")
    rows.add_column()
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(outcome.reasons.items()))
    rows.add_row(str(tally.published), "tasks published")
    rows.add_row(str(tally.succeeded), "succeeded, by the upstream's own ledger")
    rows.add_row(str(tally.dead), "dead letters" + (f": {reasons}" if reasons else ""))
    rows.add_row(
        str(tally.waiting),
        "still waiting in the broker" + (", when the demo's time was up" if tally.waiting else ""),
    )
    rows.add_row(str(len(tally.lost)), "lost")
    rows.add_row(str(len(tally.duplicated)), "called twice where that is forbidden")
    rows.add_row(
        str(tally.upstream_calls),
        f"calls reached the upstreams; {tally.upstream_rejected} rejected over quota, "
        f"{tally.upstream_throttled} turned away at the upstreams' whim",
    )
    rows.add_row(
        f"{seconds(tally.makespan):.2f} s",
        f"from the first call to the last; ideal {seconds(outcome.ideal):.2f} s",
    )
    if (median := stats.percentile_ms(0.50)) is not None:
        rows.add_row(
            f"{median:.2f} ms",
            f"per admission decision (p99 {stats.percentile_ms(0.99):.2f} ms), "
            f"{stats.limiter_calls} limiter calls",
        )
    console.print(rows, soft_wrap=True, highlight=False)
    for sentence in faults(outcome):
        console.print(Text(sentence, style="bold red"), soft_wrap=True)
    console.print("\nLook further:", highlight=False)
    database = engine.shown(make_url(outcome.database_url))
    for command in ("groups", "list"):
        # Plain text, whole: these lines are meant to be copied.
        shown = f"  {_program()} --database {database} dead {command}"
        console.print(Text(shown, style="cyan"), soft_wrap=True)


def _program() -> str:
    """The command that starts the command line from this shell: scripts/demo's is not on PATH."""
    own = Path(sys.argv[0])
    found = shutil.which(own.name)
    if own.name != "governor" or not own.exists():
        return "governor"
    if found is not None and Path(found).samefile(own):
        return "governor"
    return shlex.quote(str(own.absolute()))


def _named(what: str, task_ids: tuple[str, ...]) -> str:
    if not task_ids:
        return ""
    shown = ", ".join(task_ids[:3]) + (", …" if len(task_ids) > 3 else "")
    return f"{len(task_ids)} {what} ({shown})"
