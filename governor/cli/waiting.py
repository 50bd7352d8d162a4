"""``governor waiting``: what is parked, and what a person may do about it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from governor.admission.lanes import rank_of
from governor.cli import options, printing, waiting_json, waiting_view
from governor.cli.environment import Environment
from governor.cli.limits_view import live
from governor.cli.options import NOTHING_MATCHED, UNREACHABLE
from governor.cli.waiting_work import DONE, NOT_PARKED, Work, progress
from governor.clock import SECOND, SystemClock
from governor.errors import NothingMatched
from governor.operations.parking_changes import AT_ONCE
from governor.operations.parking_status import LotStatus, ParkedTasks, Turns

USAGE, INTERRUPTED = 2, 130


class _Group(options.ByDefault):
    default = "list"


_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
_tasks = click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)
_why = click.option(
    "--why", "--reason", "why", metavar="TEXT", required=True, callback=options.reason,
    help="Why; it is kept.",
)  # fmt: skip


@click.group("waiting", cls=_Group, short_help="Look at parked tasks, and steer them.")
def waiting() -> None:
    """Look at the tasks that are parked until their upstream may be called, and steer them.

    Without a command: `list`. What is done is kept with who did it, when and why:
    `governor limits log`.

    \b
    Exit codes: 0 done, 1 some tasks failed, 2 usage, 4 nothing matched, 6 limiter store
    unreachable, 130 interrupted.
    """


@waiting.command("list")
@click.argument("upstream", metavar="[UPSTREAM]", required=False)
@click.option(
    "--by", type=click.Choice(["tenant", "lane"]), help="Who takes turns, or each lane."
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True,
    help="Of tenants or lanes, for each upstream.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@_json
@click.pass_obj
@options.exit_codes
def list_(
    environment: Environment,
    /,
    *,
    upstream: str | None,
    by: str | None,
    limit: int,
    watch: bool,
    as_json: bool,
) -> int:
    """Count the tasks parked for each upstream; say since when, and how fast they leave.

    \b
    Example:
      governor waiting payments --by tenant --watch
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json do not go together")
    standing = environment.standing()
    parked = environment.parked(standing)
    names = standing.names() if upstream is None else (upstream,)

    def look() -> list[waiting_view.Shown]:
        return [_shown(parked, name, by, limit) for name in names]

    if watch:
        return _watch(look, by)
    with progress("Looking at the parking lots …"):
        found = look()
    if as_json:
        printing.as_json([waiting_json.lot_as_json(one, by) for one in found])
    elif found:
        waiting_view.lots(found, by)
    else:
        click.echo("No upstream is declared.", err=True)
    if not found:
        return NOTHING_MATCHED
    return UNREACHABLE if any(one.standing.lot is None for one in found) else DONE


def _shown(parked: ParkedTasks, name: str, by: str | None, limit: int) -> waiting_view.Shown:
    found: LotStatus = parked.standing(name)
    turns: Sequence[Turns] = ()
    if by is not None:
        turns = parked.tenants(found) if by == "tenant" else parked.lanes(found)
    return waiting_view.Shown(found, turns[:limit], len(turns))


def _watch(look: Callable[[], list[waiting_view.Shown]], by: str | None) -> int:
    clock = SystemClock()
    try:
        with live() as shown:
            while True:
                shown.update(waiting_view.drawn(look(), by), refresh=True)
                clock.sleep(SECOND)
    except KeyboardInterrupt:
        return INTERRUPTED


@waiting.command("show")
@click.argument("task_id", metavar="TASK_ID")
@_json
@click.pass_obj
@options.exit_codes
def show(environment: Environment, task_id: str, as_json: bool) -> int:
    """Say where a task is parked, which go before it, and when it is likely to be released.

    \b
    Example:
      governor waiting show 7b0c1c1e-58d4-4b3e-a8f5-0d4c6f3a9c11
    """
    parked = environment.parked(environment.standing())
    with progress("Looking for the task …"):
        found = parked.find(task_id)
    if not found:
        raise NothingMatched(NOT_PARKED.format(task_id))
    high_first = environment.high_first()
    told = [waiting_view.Told.of(parked, each, high_first=high_first) for each in found]
    if as_json:
        printing.as_json(waiting_json.all_parked_as_json(told))
    else:
        for each in told:
            waiting_view.parked(each)
    return DONE


@waiting.command("cancel")
@_tasks
@_why
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
@click.pass_obj
@options.exit_codes
def cancel(
    environment: Environment,
    /,
    *,
    task_ids: tuple[str, ...],
    why: str,
    yes: bool,
    as_json: bool,
) -> int:
    """Take parked tasks out. They do not run, and their results say REVOKED, as after `celery
    control revoke`.

    A task that is released already is left alone.

    \b
    Example:
      governor waiting cancel 7b0c1c1e-58d4-4b3e-a8f5-0d4c6f3a9c11 --why "sent by mistake"
    """
    work = Work(environment, task_ids, as_json=as_json)
    if not work.tasks:
        return work.report("cancelled")
    waiting_view.preview(work.tasks)
    if not yes and not _confirmed(len(work.tasks)):
        return USAGE
    try:
        with _interrupts() as heard, progress("Taking them out …"):
            for at in range(0, len(work.tasks), AT_ONCE):
                if heard:
                    break
                work.did(work.steering.cancel(work.tasks[at : at + AT_ONCE], why))
    finally:
        code = work.report("cancelled")
    return INTERRUPTED if heard else code


@waiting.command("front")
@_tasks
@_why
@_json
@click.pass_obj
@options.exit_codes
def front(environment: Environment, task_ids: tuple[str, ...], why: str, as_json: bool) -> int:
    """Let parked tasks be the first of their lanes, in the order in which they are named.

    Their lanes get no further turns for it.

    \b
    Example:
      governor waiting front 7b0c1c1e-58d4-4b3e-a8f5-0d4c6f3a9c11 --why "they called"
    """
    work = Work(environment, task_ids, as_json=as_json)
    if work.tasks:
        work.did(work.steering.front(work.tasks, why))
    return work.report("at the front of its lane" if len(work.tasks) == 1 else "at the front")


@waiting.command("move")
@_tasks
@click.option(
    "--priority", type=click.IntRange(0, 255),
    help="As the broker knows it: RabbitMQ's most urgent is the highest, that of Redis is 0.",
)  # fmt: skip
@click.option("--tenant", metavar="NAME", help="Whose turns they take; for upstreams with fair_by.")
@_why
@_json
@click.pass_obj
@options.exit_codes
def move(
    environment: Environment,
    /,
    *,
    task_ids: tuple[str, ...],
    priority: int | None,
    tenant: str | None,
    why: str,
    as_json: bool,
) -> int:
    """Let parked tasks wait at the end of the lane of another priority, or of another tenant.

    They are charged to the same limits.

    \b
    Example:
      governor waiting move 7b0c1c1e-58d4-4b3e-a8f5-0d4c6f3a9c11 --priority 0 --why "urgent"
    """
    if priority is None and tenant is None:
        raise click.UsageError("Say where to: --priority N, --tenant NAME, or both.")
    rank = None
    if priority is not None:
        rank = rank_of(priority, high_first=environment.high_first())
    work = Work(environment, task_ids, as_json=as_json)
    if work.tasks:
        work.did(work.steering.move(work.tasks, why, rank=rank, tenant=tenant))
    return work.report("moved")


@contextmanager
def _interrupts() -> Iterator[list[Any]]:
    """Ctrl-C is heard and ends nothing in the middle: what was taken out gets its result."""
    heard: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        click.echo("Nobody to ask: give --yes to cancel without asking.", err=True)
        return False
    return click.confirm(f"Cancel {count}?", err=True)
