"""``governor demo``: the main job on this machine, to watch."""

from __future__ import annotations

import json
import signal
from types import FrameType

import click
from rich.console import Console

from governor.errors import GovernorError

_UNBALANCED, _CANNOT_RUN, _INTERRUPTED = 1, 2, 130


@click.command(short_help="Watch the main job on real parts.")
@click.option(
    "--tasks", type=click.IntRange(min=1), default=1000, show_default=True, help="How many tasks."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=100_000),
    help="One upstream of this many calls a second and equal fast tasks, instead of the mix.",
)
@click.option(
    "--burst",
    type=click.IntRange(min=1),
    help="With --rate: calls the upstream takes at once.  [default: rate / 10, at least 2]",
)
@click.option(
    "--pool",
    type=click.Choice(["prefork", "threads", "gevent", "solo"]),
    default="prefork",
    show_default=True,
    help="The workers' pool.",
)
@click.option("--redis", "redis_url", metavar="URL", help="Your Redis instead of a private one.")
@click.option(
    "--database", "database_url", metavar="URL", help="Your database for the dead letters."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and only that.")
def demo(
    *,
    tasks: int,
    rate: float | None,
    burst: int | None,
    pool: str,
    redis_url: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Run real workers against a stand-in API with quotas, and balance the outcome.

    Starts a private Redis server, the API and two workers, publishes tasks, waits until all of
    them succeeded or died, and ends everything it started. The balance is counted from the
    API's own ledger and the dead-letter database.

    Exit codes: 0 the balance is right, 1 it is not, 2 usage or something is missing here,
    130 interrupted.

    \b
    Example:
      governor demo
      governor demo --rate 200 --tasks 2000 --json
    """
    if burst is not None and rate is None:
        raise click.UsageError("--burst needs --rate")
    # With --json stdout carries the object and nothing else.
    console = Console(stderr=as_json)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        # Here, not above: the other commands need not load the demo.
        from governor.demo import report
        from governor.demo.run import POOL_SLOTS, WORKERS, Options, run
        from governor.demo.view import View

        console.print(
            f"{tasks} tasks, {WORKERS} Celery workers ({pool}) of {POOL_SLOTS} pool slots each, "
            "and an API with quotas that answers 429 to whoever exceeds them.",
            highlight=False,
            soft_wrap=True,
        )
        with View(console) as view:
            outcome = run(Options(tasks, rate, burst, pool, redis_url, database_url), view.show)
    except KeyboardInterrupt:
        click.echo("Interrupted; everything the demo started has ended.", err=True)
        raise SystemExit(_INTERRUPTED) from None
    except GovernorError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(_CANNOT_RUN) from error
    if as_json:
        click.echo(json.dumps(report.as_json(outcome)))
        for sentence in report.faults(outcome):
            click.echo(sentence, err=True)
    else:
        report.print_report(outcome, console)
    if not outcome.tally.balanced:
        raise SystemExit(_UNBALANCED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not stop us from ending what we started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
