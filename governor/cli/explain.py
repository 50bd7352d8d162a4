"""``governor explain``: why a task does not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from governor.cli import printing, waiting_json, waiting_view
from governor.cli.dead_view import audit_as_json, printed_audit
from governor.cli.environment import Environment
from governor.cli.limits_json import limit_as_json
from governor.cli.limits_view import said_four, said_reason, span
from governor.clock import SystemClock
from governor.errors import ConfigurationError, DatabaseUnavailable, StoreUnavailable
from governor.operations import explain as explanation
from governor.operations.explain import DeadTask, WaitingTask
from governor.operations.limit_status import LimitStatusReader, said_breaker, said_pause
from governor.policy.decision import CLAIM
from governor.worker.inspect import COMMAND

DONE, USAGE, NOTHING_MATCHED, UNREACHABLE = 0, 2, 4, 6

_WAIT = 1.0
"""Seconds in which workers may answer."""

_WHERE = {
    "held": "held inside the worker",
    "deferred": "deferred with a countdown",
    "asking": "about to ask for admission",
}
_CLAIM = "another delivery of this task, which is still running"


@click.command(short_help="Why does this task not run?")
@click.argument("task_id", metavar="TASK_ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_obj
def explain(environment: Environment, task_id: str, as_json: bool) -> None:
    """Say what a task waits for and until when, or why it is dead.

    Asks every worker, and looks into the parking lots and the dead letters. A task that is
    running, has ended well, or lies in a queue is not known to any of them.

    Exit codes: 0 it waits or is dead, 2 usage, 4 nothing matched, 6 nothing matched, and the
    broker, the limiter store or the database was unreachable.

    \b
    Example:
      governor explain 7b0c1c1e-58d4-4b3e-a8f5-0d4c6f3a9c11
    """
    problems: list[str] = []
    try:
        standing = environment.standing()
        replies = _ask(environment, task_id, problems)
        waiting = explanation.waiting(task_id, replies, standing)
        parked = _parked(environment, task_id, standing, problems)
        dead = _dead(environment, task_id, problems)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    found = bool(waiting or parked or dead)
    if as_json:
        printing.as_json(_as_json(task_id, waiting, parked, dead, problems, len(replies)))
    else:
        for each in waiting:
            _show_waiting(each)
        for told in parked:
            waiting_view.parked(told)
        for letter in dead:
            _show_dead(letter)
        if not found:
            click.echo(
                f"{len(replies)} workers answered and none knows it, nor do the parking lots or "
                "the dead letters. It may be running, have ended, or lie in a queue.", err=True,
            )  # fmt: skip
    for problem in problems:
        click.echo(f"Error: {printing.printable(problem)}", err=True)
    if found:
        raise click.exceptions.Exit(DONE)
    raise click.exceptions.Exit(UNREACHABLE if problems else NOTHING_MATCHED)


def _ask(environment: Environment, task_id: str, problems: list[str]) -> list[Any]:
    try:
        with Console(stderr=True).status(f"Asking the workers for {_WAIT:g} s …"):
            return environment.ask_workers(COMMAND, {"task_id": task_id}, _WAIT)
    except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
        # Its text may hold the broker's password.
        problems.append(f"the workers could not be asked ({type(error).__name__})")
        return []


def _parked(
    environment: Environment, task_id: str, standing: LimitStatusReader, problems: list[str]
) -> list[waiting_view.Told]:
    tasks = environment.parked(standing)
    try:
        found = tasks.find(task_id)
        high_first = environment.high_first()
        return [waiting_view.Told.of(tasks, each, high_first=high_first) for each in found]
    except StoreUnavailable as error:
        problems.append(str(error))
        return []


def _dead(environment: Environment, task_id: str, problems: list[str]) -> tuple[DeadTask, ...]:
    try:
        return explanation.dead(task_id, environment.dead_letters())
    except DatabaseUnavailable as error:
        problems.append(str(error))
        return ()


# ---------------------------------------------------------------------- for people


def _show_waiting(each: WaitingTask) -> None:
    said = f"It waits in {each.worker}, {_WHERE.get(each.where, each.where)}"
    click.echo(printing.printable(f"{said}: {each.task}"))
    click.echo(printing.printable(f"  for    {_said_limit(each)}"))
    if each.until is not None:
        left = max(each.until - SystemClock().wall(), 0)
        click.echo(f"  until  {printing.when(each.until)} (in {span(left)})")
    if each.since is not None:
        click.echo(f"  since  {printing.when(each.since)}")
    click.echo(f"  deferred {each.deferrals} times")
    if each.standing is not None and each.standing.numbers is not None:
        click.echo(f"  {each.standing.declared.rule.name}: {said_four(each.standing.numbers)}")
    view = each.upstream_view
    if view is None or view.now is None:
        return
    for pause in view.pauses:
        if not pause.bucket:
            said = f"  {view.name}: {said_pause(pause)} ({said_reason(pause, view.now)})"
            click.echo(printing.printable(said))
    if view.breaker is not None and each.limit == "breaker":
        click.echo(f"  breaker: {said_breaker(view.breaker, view.now)}")


def _said_limit(each: WaitingTask) -> str:
    if each.limit == CLAIM:
        return _CLAIM
    if each.limit is None:
        return f"{each.upstream}: its limits are not asked yet"
    return f"{each.limit} of {each.upstream}"


def _show_dead(dead: DeadTask) -> None:
    letter = dead.letter
    if dead.replayed_as:
        said = f"It is the replay of dead letter {letter.id}, which is {letter.state.value}"
    else:
        said = f"It is dead: {letter.reason.value}, at {printing.when(letter.dead_at)}"
    click.echo(printing.printable(said))
    if letter.exc_type and not dead.replayed_as:
        first = (letter.exc_message or "").strip().partition("\n")[0]
        click.echo(printing.printable(f"  {letter.exc_type}: {first}"))
    click.echo(f"  state  {letter.state.value}; replay: {letter.replay_verdict}")
    click.echo(printing.printable(f"  show   governor dead show {letter.id}"))
    for line in printed_audit(dead.audit):
        click.echo(line)


# ---------------------------------------------------------------------- for programs


def _as_json(  # noqa: PLR0917 - called in one place
    task_id: str,
    waiting: tuple[WaitingTask, ...],
    parked: Sequence[waiting_view.Told],
    dead: tuple[DeadTask, ...],
    problems: list[str],
    workers: int,
) -> dict[str, Any]:
    found = "waiting" if waiting else "parked" if parked else "dead" if dead else "unknown"
    return {
        "task_id": task_id,
        "found": found,
        "workers": workers,
        "waiting": [_waiting_as_json(each) for each in waiting],
        "parked": waiting_json.all_parked_as_json(parked),
        "dead": [_dead_as_json(each) for each in dead],
        "problems": problems,
    }


def _waiting_as_json(each: WaitingTask) -> dict[str, Any]:
    return {
        "worker": each.worker,
        "task": each.task,
        "upstream": each.upstream,
        "where": each.where,
        "limit": each.limit,
        "until": printing.when(each.until),
        "since": printing.when(each.since),
        "deferrals": each.deferrals,
        "numbers": None if each.standing is None else limit_as_json(each.standing),
    }


def _dead_as_json(dead: DeadTask) -> dict[str, Any]:
    letter = dead.letter
    return {
        "id": letter.id,
        "replay": dead.replayed_as,
        "reason": letter.reason.value,
        "state": letter.state.value,
        "dead_at": printing.when(letter.dead_at),
        "exc_type": letter.exc_type,
        "exc_message": letter.exc_message,
        "show": f"governor dead show {letter.id}",
        "audit": [audit_as_json(entry) for entry in dead.audit],
    }
