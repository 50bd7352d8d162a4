"""The looks of limits, for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live

from governor.cli.printing import drawn as drawn_table
from governor.cli.printing import printable, table, when
from governor.clock import SECOND
from governor.operations.limit_changes import LimitsChanged
from governor.operations.limit_status import (
    LimitStatusReader,
    LimitView,
    Pause,
    Record,
    UpstreamView,
    said_breaker,
    said_pause,
)
from governor.policy.limit_status import LimitStatus
from governor.policy.limits import Quota, Window

_A_DAY = 86_400 * SECOND
_UPSTREAMS = ("upstream", "store", "breaker", "adaptive", "paused")
_LIMITS = (
    "upstream", "name", "task", "key", "in force", "limit", "remaining", "retry after",
    "reset after", "changed",
)  # fmt: skip
_OF_TASKS = {"cancel", "front", "move"}
"""Changes of parked tasks, not of the upstream."""

_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"))


def span(micros: int | None) -> str:
    """A span for people, in seconds or in its two largest units."""
    if micros is None:
        return "–"
    seconds = micros / SECOND
    for index, (length, unit) in enumerate(_SPANS):
        if seconds >= 2 * length:
            smaller, name = (*_SPANS, (1, "s"))[index + 1]
            whole, rest = divmod(int(seconds), length)
            return (
                f"{whole} {unit} {rest // smaller} {name}" if rest >= smaller else f"{whole} {unit}"
            )
    return f"{seconds:.3g} s"


def said_numbers(values: Mapping[str, Any]) -> str:
    """A limit's numbers in words."""
    return ", ".join(f"{field} {value}" for field, value in values.items())


def said_reason(pause: Pause, now: int) -> str:
    """Name the person who paused, and the reason."""
    if pause.record is not None:
        return f"{pause.record.by}: {pause.record.why}"
    if pause.bucket or pause.until - now > _A_DAY:
        return "a person, before the changes that the log shows"
    return "the upstream said so"


def upstreams(views: Sequence[UpstreamView], standing: LimitStatusReader) -> None:
    """The tables of upstreams and of their limits, on stdout."""
    table(_UPSTREAMS, _upstream_rows(views, standing))
    click.echo()
    table(_LIMITS, _limit_rows(views))


def drawn(views: Sequence[UpstreamView], standing: LimitStatusReader) -> Group:
    """The same to be drawn again and again."""
    return Group(
        drawn_table(_UPSTREAMS, _upstream_rows(views, standing)),
        "",
        drawn_table(_LIMITS, _limit_rows(views)),
    )


def live() -> Live:
    """The frame in which :func:`drawn` is shown again and again."""
    return Live(console=Console(file=sys.stdout), auto_refresh=False)


def _upstream_rows(
    views: Sequence[UpstreamView], standing: LimitStatusReader
) -> Iterator[tuple[object, ...]]:
    for view in views:
        if view.now is None:
            state = "not reachable" if view.problem is None else "broken"
            yield view.name, f"{state}: {_DOWN[view.store_down]}", "?", "?", "?"
            continue
        now = view.now
        breaker = "none" if view.breaker is None else said_breaker(view.breaker, now)
        share = "none" if view.share is None else f"{view.share:.0%} of the rates"
        pauses = "; ".join(_said_pause(pause, view.name, now, standing) for pause in view.pauses)
        yield view.name, "reachable", breaker, share, pauses or "no"


_DOWN = {
    "closed": "tasks wait",
    "open": "idempotent tasks call without limits, others wait",
    "local": "each worker enforces its share, others wait",
}


def _said_pause(pause: Pause, upstream: str, now: int, standing: LimitStatusReader) -> str:
    one = f" {standing.shown(upstream, pause.bucket)}" if pause.bucket else ""
    return f"{said_pause(pause)}{one} ({said_reason(pause, now)})"


def _limit_rows(views: Sequence[UpstreamView]) -> Iterator[tuple[object, ...]]:
    for view in views:
        for each in view.limits:
            rule, found = each.declared.rule, each.numbers
            key = "" if rule.per is None else f"{rule.per}={each.value or '…'}"
            numbers: tuple[object, ...] = ("?",) * 4
            if found is not None:
                numbers = (
                    found.limit, found.remaining, span(found.retry_after), span(found.reset_after)
                )  # fmt: skip
            elif view.now is not None:
                numbers = (f"give --key {rule.per}=…", "", "", "")
            yield (
                view.name, rule.name, each.declared.task, key, _said_in_force(each),
                *numbers, _said_change(each),
            )  # fmt: skip


def _said_in_force(each: LimitView) -> str:
    said, rule = said_numbers(each.in_force), each.declared.rule
    if isinstance(rule, Window):
        return f"{said} in any {rule.span / SECOND:g} s"
    return f"{said} each {rule.each}" if isinstance(rule, Quota) else said


def said_four(found: LimitStatus) -> str:
    """The four numbers in words."""
    return (
        f"limit {found.limit}, remaining {found.remaining}, "
        f"retry after {span(found.retry_after)}, reset after {span(found.reset_after)}"
    )


def _said_change(each: LimitView) -> str:
    if not each.changed:
        return ""
    by = "" if each.record is None else f", by {each.record.by}: {each.record.why}"
    return f"declared {said_numbers(each.declared.rule.numbers())}{by}"


def preview(steered: LimitsChanged) -> None:
    """Print on stderr what a change would do."""
    for difference in steered.differences:
        said = f"{difference.what}: {difference.before} → {difference.after}"
        click.echo(printable(said), err=True)
    for note in steered.notes:
        click.echo(f"{note}.", err=True)


def done(steered: LimitsChanged) -> None:
    """Print what a change did."""
    for difference in steered.differences:
        click.echo(printable(f"{difference.what}: {difference.before} → {difference.after}"))
    for note in steered.notes:
        click.echo(f"{note}.", err=True)
    click.echo("It takes effect with the next decision, in every worker.", err=True)


def log(records: Sequence[Record], upstream: str, standing: LimitStatusReader) -> None:
    """The changes of an upstream."""
    table(
        ("at", "by", "what", "of", "value", "why"),
        (
            (
                when(record.at), record.by, record.what, said_target(record, upstream, standing),
                _said_value(record), record.why,
            )
            for record in records
        ),
    )  # fmt: skip


def said_target(record: Record, upstream: str, standing: LimitStatusReader) -> str:
    """Name what was changed: tasks, a limit, a bucket's value."""
    if record.what in _OF_TASKS:
        return ", ".join(record.target.split(" "))
    return standing.shown(upstream, record.target)


def _said_value(record: Record) -> str:
    if record.what == "move":
        return f"to lane {record.value}"
    if record.what == "pause":
        return said_pause(Pause(int(record.value), record))
    if record.what != "set":
        return ""
    try:
        return said_numbers(json.loads(record.value))
    except (ValueError, AttributeError):
        return record.value
