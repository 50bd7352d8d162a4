"""``governor dead``: look at dead letters, and send them again."""

from __future__ import annotations

import sys

import click

from governor.cli import dead_replay, dead_view, options, printing
from governor.cli.environment import Environment
from governor.clock import SystemClock
from governor.deadletter.models import State
from governor.deadletter.reading import Filters
from governor.deadletter.spill import Spill
from governor.ports import Reason

DONE, SOME_FAILED, USAGE, REFUSED, NOTHING_MATCHED, CHANGED, UNREACHABLE = range(7)


_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
_since = click.option(
    "--since",
    metavar="AGE",
    callback=options.span,
    help="Only deaths of the last 90s, 15m, 24h or 7d.",
)


@click.group("dead", short_help="Look at dead letters, and send them again.")
def dead() -> None:
    """Look at dead letters, and send them again.

    \b
    Exit codes: 0 done, 1 some items failed, 2 usage, 3 refused by policy, 4 nothing
    matched, 5 changed since the preview, 6 database unreachable.
    """


@dead.command("groups")
@_since
@_json
@click.pass_obj
@options.exit_codes
def groups(environment: Environment, since: int | None, as_json: bool) -> int:
    """Unresolved dead letters by cause, the largest group first.

    \b
    Example:
      governor dead groups --since 24h
    """
    found = environment.dead_letters().groups(_instant(since))
    if as_json:
        printing.as_json([dead_view.group_as_json(group) for group in found])
    elif found:
        dead_view.groups(found)
    else:
        click.echo("No dead letters.", err=True)
    return DONE if found else NOTHING_MATCHED


@dead.command("list")
@click.option("--state", type=click.Choice([state.value for state in State]), multiple=True)
@click.option("--group", "fingerprint", metavar="FP", help="Only this group.")
@click.option("--task", "task_name", metavar="NAME", help="Only this task.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--upstream", help="Only this upstream.")
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]))
@_since
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@_json
@click.pass_obj
@options.exit_codes
def list_(
    environment: Environment,
    /,
    *,
    state: tuple[str, ...],
    reason: str | None,
    since: int | None,
    limit: int,
    as_json: bool,
    **equal: str | None,
) -> int:
    """Dead letters, the newest first; in every state unless --state is given.

    \b
    Example:
      governor dead list --state dead --task billing.charge --since 1h
    """
    filters = Filters(
        states=[State(name) for name in state],
        reason=None if reason is None else Reason(reason),
        since=_instant(since),
        **equal,
    )
    dead_letters = environment.dead_letters()
    found = dead_letters.list(filters, limit)
    if as_json:
        printing.as_json([dead_view.letter_as_json(letter) for letter in found])
    elif found:
        dead_view.letters(found)
        if len(found) == limit:
            click.echo(f"{limit} of {dead_letters.count(filters)} shown (--limit).", err=True)
    else:
        click.echo("Nothing matched.", err=True)
    return DONE if found else NOTHING_MATCHED


@dead.command("show")
@click.argument("dead_letter_id", metavar="ID")
@_json
@click.pass_obj
@options.exit_codes
def show(environment: Environment, dead_letter_id: str, as_json: bool) -> int:
    """Everything about one dead letter and what was done with it, redacted.

    \b
    Example:
      governor dead show 01932b6e-5f4a-7c21-9d1e-0c7a6b2f9e10
    """
    dead_letters = environment.dead_letters()
    letter = dead_letters.get(dead_letter_id)
    audit = dead_letters.audit(dead_letter_id)
    if as_json:
        trail = [dead_view.audit_as_json(entry) for entry in audit]
        printing.as_json({**dead_view.letter_as_json(letter), "audit": trail})
    else:
        dead_view.letter(letter, audit)
    return DONE


@dead.command("replay")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--group", "fingerprint", metavar="FP", help="All of this group.")
@click.option("--task", "task_name", metavar="NAME", help="All of this task.")
@click.option("--reason", metavar="TEXT", help="Why; kept in the audit trail.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--confirm-not-idempotent",
    is_flag=True,
    help="Also those whose call may have happened: it may happen a second time.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True)
@_json
@click.pass_obj
@options.exit_codes
def replay(
    environment: Environment,
    /,
    *,
    ids: tuple[str, ...],
    fingerprint: str | None,
    task_name: str | None,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    confirm_not_idempotent: bool,
    limit: int,
    as_json: bool,
) -> int:
    """Send dead letters again, each once; they wait for admission like any other task.

    \b
    Examples:
      governor dead replay --group 4f0c… --reason "bank is back" --dry-run
      governor dead replay ID --reason "refund checked" --confirm-not-idempotent
    """
    if sum((bool(ids), fingerprint is not None, task_name is not None)) != 1:
        raise click.UsageError("Name what to replay: IDs, or --group FP, or --task NAME.")
    if not dry_run and not (reason or "").strip():
        raise click.UsageError("--reason is missing: say why, for the audit trail.")
    dead_letters = environment.dead_letters()
    clock = SystemClock()
    if not dry_run:
        dead_letters.release_expired(clock.wall())
    plan = dead_replay.plan(
        dead_letters,
        ids=ids,
        filters=Filters(fingerprint=fingerprint, task_name=task_name),
        limit=limit,
        confirm_not_idempotent=confirm_not_idempotent,
    )
    if not plan.chosen and not plan.refused and not plan.changed:
        click.echo("Nothing matched.", err=True)
        return NOTHING_MATCHED
    dead_replay.preview(plan)
    outcome = dead_replay.ReplayOutcome(plan)
    if plan.chosen and not dry_run:
        publish = environment.publisher()
        if not yes and not _confirmed(len(plan.chosen)):
            return USAGE
        dead_replay.run(
            plan,
            outcome,
            dead_letters=dead_letters,
            publish=publish,
            events=environment.events(),
            clock=clock,
            reason=(reason or "").strip(),
            confirm_not_idempotent=confirm_not_idempotent,
        )
    dead_replay.report(outcome, as_json=as_json, dry_run=dry_run)
    return _code(outcome, dry_run=dry_run)


@dead.command("drain-spill")
@_json
@click.pass_obj
@options.exit_codes
def drain_spill(environment: Environment, as_json: bool) -> int:
    """Write the deaths that were kept on disk while the database was away, and try those again
    whose row it has refused.

    \b
    Example:
      governor dead drain-spill
    """
    spill = Spill(environment.spill_dir(), redact=str)
    drained = spill.drain(environment.dead_letters(), again=True)
    if as_json:
        printing.as_json(
            {
                "recorded": drained.recorded,
                "refused": drained.refused,
                "broken": drained.broken,
                "pending": spill.pending(),
            }
        )
    else:
        click.echo(f"{drained.recorded} recorded.")
    if drained.refused:
        click.echo(f"{drained.refused} refused by the database; set aside:", err=True)
    if drained.broken:
        click.echo(f"{drained.broken} not readable; set aside:", err=True)
    for line in drained.said:
        click.echo(printing.printable(line), err=True)
    if drained.refused or drained.broken:
        return SOME_FAILED
    return DONE if drained.recorded else NOTHING_MATCHED


def _instant(age: int | None) -> int | None:
    return None if age is None else SystemClock().wall() - age


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        click.echo("Nobody to ask: give --yes to replay without asking.", err=True)
        return False
    return click.confirm(f"Replay {count}?", err=True)


def _code(outcome: dead_replay.ReplayOutcome, *, dry_run: bool) -> int:
    if outcome.unreachable:
        return UNREACHABLE
    if outcome.failed or outcome.missing:
        return SOME_FAILED
    if outcome.changed:
        return CHANGED
    if outcome.refused:
        acted = outcome.plan.chosen if dry_run else outcome.replayed
        return SOME_FAILED if acted and not dry_run else (DONE if acted else REFUSED)
    return DONE
