"""Replaying from the command line: choose, preview, claim, publish, mark, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import click

from governor.cli import dead_view, options, printing
from governor.clock import Clock
from governor.deadletter.models import State
from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import DeadLetter
from governor.deadletter.verdict import Verdict
from governor.errors import Changed, DatabaseUnavailable, ReplayRefused, UnknownDeadLetter
from governor.events import Emitter, TaskReplayed
from governor.operations.replay import replay_message
from governor.ports import MessageCopy


@dataclass(frozen=True, slots=True)
class Plan:
    """The preview of a replay.

    Attributes:
        refused: with why.
        changed: those asked for by id that are not dead (any more).
        missing: ids that no dead letter has.
        beyond_limit: further ones that match and are left for the next run.
    """

    chosen: tuple[DeadLetter, ...]
    refused: tuple[tuple[DeadLetter, str], ...]
    changed: tuple[DeadLetter, ...]
    missing: tuple[str, ...]
    beyond_limit: int


@dataclass(slots=True)
class ReplayOutcome:
    """The result of a replay: ids of dead letters, with the new task id or why not."""

    plan: Plan
    replayed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unreachable: str | None = None

    def __post_init__(self) -> None:
        self.missing = self.plan.missing
        self.refused = {letter.id: why for letter, why in self.plan.refused}
        self.changed = {letter.id: f"is {letter.state.value}" for letter in self.plan.changed}


def plan(
    dead_letters: SqlDeadLetters,
    *,
    ids: Sequence[str],
    filters: Filters,
    limit: int,
    confirm_not_idempotent: bool,
) -> Plan:
    """Choose among the dead letters with these ids, or else among those that match.

    Raises:
        DatabaseUnavailable
    """
    missing: list[str] = []
    found: list[DeadLetter] = []
    beyond = 0
    if ids:
        for dead_letter_id in dict.fromkeys(ids):
            try:
                found.append(dead_letters.get(dead_letter_id))
            except UnknownDeadLetter:
                missing.append(dead_letter_id)
    else:
        matching = replace(filters, states=_replayable(confirm_not_idempotent))
        found.extend(dead_letters.list(matching, limit))
        if len(found) == limit:
            beyond = max(0, dead_letters.count(matching) - limit)
    chosen: list[DeadLetter] = []
    refused: list[tuple[DeadLetter, str]] = []
    changed: list[DeadLetter] = []
    for letter in found:
        if letter.state not in (State.DEAD, State.NEEDS_REVIEW):
            changed.append(letter)
        elif letter.replay_verdict == Verdict.IMPOSSIBLE:
            refused.append((letter, letter.replay_why))
        elif letter.replay_verdict == Verdict.NEEDS_CONFIRMATION and not confirm_not_idempotent:
            refused.append((letter, f"{letter.replay_why} (--confirm-not-idempotent)"))
        else:
            chosen.append(letter)
    # Oldest death first: the order in which the work was meant to happen.
    chosen.sort(key=lambda letter: (letter.dead_at, letter.id))
    return Plan(tuple(chosen), tuple(refused), tuple(changed), tuple(missing), beyond)


def preview(plan: Plan) -> None:
    """Say on stderr what the plan is."""
    click.echo(f"{len(plan.chosen)} to replay", err=True)
    if plan.chosen:
        dead_view.tally("tasks", (letter.task_name for letter in plan.chosen))
        dead_view.tally("tenants", (letter.tenant for letter in plan.chosen))
        risky = sum(letter.replay_verdict != Verdict.SAFE for letter in plan.chosen)
        if risky:
            click.echo(f"  {risky} of them may call a second time", err=True)
    if plan.refused:
        click.echo(f"{len(plan.refused)} refused", err=True)
        dead_view.tally("because", (why for _letter, why in plan.refused))
    for letter in plan.changed:
        click.echo(f"{letter.id} is {letter.state.value}: not replayed", err=True)
    for dead_letter_id in plan.missing:
        click.echo(f"{printing.printable(dead_letter_id)}: no such dead letter", err=True)
    if plan.beyond_limit:
        click.echo(f"{plan.beyond_limit} more match: run again, or raise --limit", err=True)


def run(
    plan: Plan,
    outcome: ReplayOutcome,
    *,
    dead_letters: SqlDeadLetters,
    publish: Callable[[MessageCopy], None],
    events: Emitter,
    clock: Clock,
    reason: str,
    confirm_not_idempotent: bool,
) -> None:
    """Replay one after the other. The claim commits the task id before it is published: a
    crash in between leaves a claim whose lease ends, never a second task id."""
    actor = options.actor()
    for letter in plan.chosen:
        try:
            claim = dead_letters.claim_replay(
                letter.id,
                letter.version,
                clock.wall(),
                actor,
                reason,
                confirm_not_idempotent=confirm_not_idempotent,
            )
        except Changed as error:
            outcome.changed[letter.id] = str(error)
            continue
        except ReplayRefused as error:
            outcome.refused[letter.id] = str(error)
            continue
        except DatabaseUnavailable as error:
            outcome.unreachable = str(error)
            return
        message = replay_message(
            claim.message,
            replay_task_id=claim.replay_task_id,
            dead_letter_id=letter.id,
            idempotency_key=claim.idempotency_key,
        )
        try:
            try:
                publish(message)
            except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
                why = f"{type(error).__name__}: {error}"
                state = dead_letters.release_claim(claim, clock.wall(), actor, why)
                outcome.failed[letter.id] = f"{why}; it is {state.value} now"
            else:
                outcome.replayed[letter.id] = claim.replay_task_id
                if events.listeners:
                    events.emit(_replayed(letter, claim.replay_task_id, clock.wall(), actor))
                dead_letters.mark_replayed(claim, clock.wall(), actor)
        except DatabaseUnavailable as error:
            # The claim's lease ends by itself; a success seen resolves the row.
            outcome.unreachable = str(error)
            return


def _replayed(letter: DeadLetter, task_id: str, now: int, by: str) -> TaskReplayed:
    task, upstream = letter.task_name or "", letter.upstream or ""
    return TaskReplayed(now, task_id, task, upstream, letter.id, by)


def report(outcome: ReplayOutcome, *, as_json: bool, dry_run: bool) -> None:
    """Say what was done, each item that was not with its why."""
    if as_json:
        plan = outcome.plan
        printing.as_json(
            {
                "dry_run": dry_run,
                "chosen": [letter.id for letter in plan.chosen],
                "replayed": outcome.replayed,
                "failed": outcome.failed,
                "changed": outcome.changed,
                "refused": outcome.refused,
                "missing": list(outcome.missing),
                "beyond_limit": plan.beyond_limit,
                "unreachable": outcome.unreachable,
            }
        )
    elif dry_run:
        click.echo("Nothing was replayed (--dry-run).")
    else:
        click.echo(f"{len(outcome.replayed)} replayed.")
    before = {letter.id for letter in outcome.plan.changed}
    before |= {letter.id for letter, _why in outcome.plan.refused}
    for problems in (outcome.failed, outcome.changed, outcome.refused):
        for dead_letter_id, why in problems.items():
            if dead_letter_id not in before:  # the preview has said those
                click.echo(printing.printable(f"{dead_letter_id}: {why}"), err=True)
    if outcome.unreachable:
        click.echo(f"Error: {printing.printable(outcome.unreachable)}", err=True)


def _replayable(confirm_not_idempotent: bool) -> tuple[State, ...]:
    return (State.DEAD, State.NEEDS_REVIEW) if confirm_not_idempotent else (State.DEAD,)
