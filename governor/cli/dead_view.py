"""The looks of dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from governor.cli.printing import printable, table, when
from governor.deadletter.reading import AuditEntry, DeadGroup
from governor.deadletter.rows import DeadLetter

_TIMES = ("first_failed_at", "dead_at", "recorded_at", "state_at", "expires_at", "lease_until")
_LONG = ("exc_message", "args_redacted", "traceback", "attempt_log")


def letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for JSON."""
    shown = asdict(letter)
    for field in _TIMES:
        shown[field] = when(shown[field])
    return shown


def group_as_json(group: DeadGroup) -> dict[str, Any]:
    """A group for JSON."""
    return {
        **asdict(group),
        "first_dead_at": when(group.first_dead_at),
        "last_dead_at": when(group.last_dead_at),
    }


def audit_as_json(entry: AuditEntry) -> dict[str, Any]:
    """An audit entry for JSON."""
    return {**asdict(entry), "at": when(entry.at)}


def groups(found: Sequence[DeadGroup]) -> None:
    """The group view: largest first."""
    table(
        ("fingerprint", "count", "task", "reason", "exception", "last", "message"),
        (
            (
                group.fingerprint,
                group.count,
                group.task_name,
                group.reason.value,
                group.exc_type,
                when(group.last_dead_at),
                _first_line(group.exc_message),
            )
            for group in found
        ),
        right="count",
    )


def letters(found: Sequence[DeadLetter]) -> None:
    """One line for each dead letter."""
    table(
        ("id", "state", "dead at", "task", "reason", "tenant", "replay", "exception"),
        (
            (
                letter.id,
                letter.state.value,
                when(letter.dead_at),
                letter.task_name,
                letter.reason.value,
                letter.tenant,
                letter.replay_verdict,
                letter.exc_type,
            )
            for letter in found
        ),
    )


def letter(shown: DeadLetter, audit: Sequence[AuditEntry]) -> None:
    """Everything about one dead letter but its message."""
    fields = letter_as_json(shown)
    for field, value in fields.items():
        if value not in (None, [], ()) and field not in _LONG:
            text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            click.echo(f"{field:20} {printable(text)}")
    for field in _LONG:
        value = fields[field]
        if value:
            text = "\n".join(map(_attempt, value)) if field == "attempt_log" else value
            click.echo(f"\n{field}:")
            click.echo("\n".join(f"  {line}" for line in printable(text, lines=True).split("\n")))
    click.echo("\naudit:")
    for line in printed_audit(audit):
        click.echo(line)


def printed_audit(audit: Sequence[AuditEntry]) -> Iterator[str]:
    """One line for each thing that was done."""
    for entry in audit:
        edge = " → ".join(state for state in (entry.from_state, entry.to_state) if state)
        said = f": {entry.reason}" if entry.reason else ""
        yield printable(f"  {when(entry.at)}  {entry.action}  {edge}  {entry.actor}{said}")


def tally(heading: str, values: Iterable[str | None]) -> None:
    """Print how often each value occurs, on stderr: part of a preview."""
    counted = Counter(value or "(none)" for value in values).most_common()
    shown = ", ".join(f"{value} {count}" for value, count in counted[:10])
    more = f", and {len(counted) - 10} more" if len(counted) > 10 else ""
    click.echo(f"  {heading}: {printable(shown)}{more}", err=True)


def _attempt(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in entry.items())


def _first_line(text: str | None) -> str:
    line = (text or "").strip().partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"
