"""``governor limits``: how limits stand, and changing them while the fleet runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from governor.cli import limits_json, limits_view, options, printing
from governor.cli.environment import Environment
from governor.cli.options import NOTHING_MATCHED, UNREACHABLE
from governor.clock import SECOND, SystemClock
from governor.operations.limit_changes import LimitChanges, LimitsChanged
from governor.operations.limit_status import Key, LimitStatusReader, UpstreamView

DONE, USAGE, INTERRUPTED = 0, 2, 130


_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
_upstream = click.argument("upstream", metavar="NAME")
_why = click.option(
    "--reason", "why", metavar="TEXT", required=True, callback=options.reason,
    help="Why; it is kept.",
)  # fmt: skip
_key = click.option(
    "--key", metavar="ARG=VALUE", callback=options.key, help="Only this value, like account=acme."
)


@click.group("limits", cls=options.ByDefault, short_help="Look at limits, and change them.")
def limits() -> None:
    """Look at limits, and change them while the fleet runs.

    Without a command: `show`. A change is kept with who made it, when and why.

    \b
    Exit codes: 0 done, 2 usage, 4 nothing matched, 6 limiter store unreachable,
    130 interrupted.
    """


@limits.command("show")
@click.argument("upstream", metavar="[NAME]", required=False)
@click.option(
    "--key", "keys", metavar="ARG=VALUE", multiple=True, callback=options.key,
    help="The bucket of this value, like account=acme; for limits with per=. May be repeated.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@_json
@click.pass_obj
@options.exit_codes
def show(
    environment: Environment,
    upstream: str | None,
    keys: Sequence[Key],
    watch: bool,
    as_json: bool,
) -> int:
    """Every limit with its four numbers: limit, remaining, retry after, reset after.

    \b
    Example:
      governor limits show payments --key account=acct_1 --watch
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json do not go together")
    standing = environment.standing()
    names = standing.names() if upstream is None else (upstream,)

    def look() -> list[UpstreamView]:
        return [standing.view(name, keys) for name in names]

    if watch:
        return _watch(look, standing)
    views = look()
    if as_json:
        printing.as_json([limits_json.upstream_as_json(view, standing) for view in views])
    elif views:
        limits_view.upstreams(views, standing)
        for view in views:
            if view.problem is not None:
                click.echo(printing.printable(view.problem), err=True)
    else:
        click.echo("No upstream is declared.", err=True)
    if not views:
        return NOTHING_MATCHED
    return UNREACHABLE if any(view.now is None for view in views) else DONE


def _watch(look: Callable[[], list[UpstreamView]], standing: LimitStatusReader) -> int:
    clock = SystemClock()
    try:
        with limits_view.live() as shown:
            while True:
                shown.update(limits_view.drawn(look(), standing), refresh=True)
                clock.sleep(SECOND)
    except KeyboardInterrupt:
        return INTERRUPTED


@limits.command("set")
@_upstream
@click.argument("limit")
@click.option("--rate", metavar="RATE", help="Of a Limit, like 50/s.")
@click.option("--burst", type=int, help="Of a Limit.")
@click.option("--most", type=int, help="Of a Window, Quota or Concurrency.")
@_why
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
@options.exit_codes
def set_(
    environment: Environment, /, *, upstream: str, limit: str, why: str, yes: bool, **numbers: Any
) -> int:
    """Other numbers for one limit, by its name or its key, for all its values.

    \b
    Example:
      governor limits set payments 100/s --rate 50/s --reason "they asked"
    """
    given = {field: number for field, number in numbers.items() if number is not None}
    steering = _steering(environment)
    steered = steering.set(upstream, limit, given, why)
    if not steered.differences:
        click.echo("These numbers are in force already: nothing is changed.", err=True)
        return DONE
    if not yes:
        limits_view.preview(steered)
        if not _confirmed():
            return USAGE
    return _apply(steering, steered)


@limits.command("reset")
@_upstream
@click.argument("limit", required=False)
@_why
@click.pass_obj
@options.exit_codes
def reset(environment: Environment, upstream: str, limit: str | None, why: str) -> int:
    """The declared numbers again. Without LIMIT for all of the upstream's limits; its breaker is
    then closed, its adaptive rate whole, and none of its keys paused.

    \b
    Example:
      governor limits reset payments --reason "incident over"
    """
    steering = _steering(environment)
    return _apply(steering, steering.reset(upstream, limit, why))


@limits.command("pause")
@_upstream
@_key
@click.option("--for", "span", metavar="SPAN", callback=options.span, help="90s, 15m, 24h or 7d.")
@click.option("--until", metavar="ISO", callback=options.instant, help="2026-01-31T18:00:00Z.")
@_why
@click.pass_obj
@options.exit_codes
def pause(
    environment: Environment,
    /,
    *,
    upstream: str,
    key: Key | None,
    span: int | None,
    until: int | None,
    why: str,
) -> int:
    """Nobody calls the upstream, or calls it for one key: until then, or until `resume`.

    Tasks wait; those that would wait beyond max_wait become dead letters.

    \b
    Example:
      governor limits pause payments --key account=acct_1 --for 10m --reason "they complain"
    """
    if span is not None and until is not None:
        raise click.UsageError("Give --for or --until, not both")
    steering = _steering(environment)
    return _apply(steering, steering.pause(upstream, key, span, until, why))


@limits.command("resume")
@_upstream
@_key
@_why
@click.pass_obj
@options.exit_codes
def resume(environment: Environment, upstream: str, key: Key | None, why: str) -> int:
    """End a pause, also one that the upstream asked for.

    \b
    Example:
      governor limits resume payments --reason "they are back"
    """
    steering = _steering(environment)
    return _apply(steering, steering.resume(upstream, key, why))


@limits.command("log")
@_upstream
@_json
@click.pass_obj
@options.exit_codes
def log(environment: Environment, upstream: str, as_json: bool) -> int:
    """The latest changes: when, by whom, what, why; newest first.

    \b
    Example:
      governor limits log payments
    """
    standing = environment.standing()
    records = standing.log(upstream)
    if as_json:
        printing.as_json([limits_json.record_as_json(r, upstream, standing) for r in records])
    elif records:
        limits_view.log(records, upstream, standing)
    else:
        click.echo("Nobody has changed it.", err=True)
    return DONE if records else NOTHING_MATCHED


def _steering(environment: Environment) -> LimitChanges:
    return environment.steering(environment.standing(), options.actor())


def _apply(steering: LimitChanges, steered: LimitsChanged) -> int:
    steering.apply(steered)
    limits_view.done(steered)
    return DONE


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        click.echo("Nobody to ask: give --yes to change it without asking.", err=True)
        return False
    return click.confirm("Change it?", err=True)
