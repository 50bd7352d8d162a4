"""The looks of parked tasks, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
from rich.console import Group
from rich.table import Table

from governor.admission.lanes import rank_of
from governor.cli.dead_view import tally
from governor.cli.limits_view import said_reason, span
from governor.cli.printing import drawn as drawn_table
from governor.cli.printing import printable, table, when
from governor.operations.limit_status import FOREVER, said_breaker, said_pause
from governor.operations.parking_status import (
    HeldUp,
    LotStatus,
    Parked,
    ParkedTasks,
    ReleaseEstimate,
    Turns,
)

_LOTS = ("upstream", "waiting", "released", "oldest", "rate", "drained in", "state")
_TURNS = (
    "upstream", "tenant", "waiting", "oldest", "turns", "estimated rate", "estimated drain",
    "blocked",
)  # fmt: skip
_LANES = ("upstream", "lane", "tenant", "rank", "waiting", "oldest", "turns", "blocked")


@dataclass(frozen=True, slots=True)
class Shown:
    """A parking lot to be shown.

    Attributes:
        turns: those of its tenants or lanes that are shown.
        known: how many there are.
    """

    standing: LotStatus
    turns: Sequence[Turns]
    known: int


@dataclass(frozen=True, slots=True)
class Told:
    """A parked task, its place and its arguments, as they are told."""

    parked: Parked
    estimate: ReleaseEstimate
    tenant: str
    priority: int
    arguments: str | None

    @classmethod
    def of(cls, tasks: ParkedTasks, found: Parked, *, high_first: bool) -> Told:
        """Look for the rest of it.

        Raises:
            StoreUnavailable: no answer in time.
        """
        lane = found.entry.lane
        return cls(
            found,
            tasks.estimate(found),
            tasks.called(found.upstream, lane),
            rank_of(lane.rank, high_first=high_first),
            tasks.arguments(found),
        )


def lots(found: Sequence[Shown], by: str | None) -> None:
    """The tables of lots and of who takes turns in them, on stdout."""
    table(_LOTS, map(_lot_row, found))
    if by is not None:
        click.echo()
        table(_headings(by), _turns_rows(found, by))
        for one in found:
            if len(one.turns) < one.known:
                said = f"{one.standing.name}: {len(one.turns)} of {one.known} shown (--limit)."
                click.echo(said, err=True)


def drawn(found: Sequence[Shown], by: str | None) -> Group | Table:
    """The same to be drawn again and again."""
    shown = drawn_table(_LOTS, map(_lot_row, found))
    if by is None:
        return shown
    return Group(shown, "", drawn_table(_headings(by), _turns_rows(found, by)))


def _headings(by: str) -> Sequence[str]:
    return _TURNS if by == "tenant" else _LANES


def _lot_row(one: Shown) -> tuple[object, ...]:
    found = one.standing
    if found.lot is None:
        return found.name, *("?",) * 5, "the limiter store is not reachable"
    oldest = None if found.oldest is None else found.lot.now - found.oldest
    return (
        found.name, found.lot.waiting, found.lot.out, span(oldest), _said_rate(found.rate),
        _said_drain(found), _said_state(found),
    )  # fmt: skip


def _said_rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.3g}/s"


def _said_drain(found: LotStatus) -> str:
    if found.held_up is not None:
        return "paused" if found.held_up.by == "pause" else "breaker open"
    return "unknown" if found.drain is None else span(found.drain)


def _said_state(found: LotStatus) -> str:
    view, held = found.upstream, found.held_up
    if held is not None and held.by == "pause":
        pause = next(pause for pause in view.pauses if not pause.bucket)
        return f"{said_pause(pause)} ({said_reason(pause, view.now or 0)})"
    if held is not None and view.breaker is not None:
        return f"breaker {said_breaker(view.breaker, view.now or 0)}"
    if found.parking == "broker":
        return "its tasks wait in the broker"
    if found.lot is None or not found.lot.waiting:
        return ""
    if found.rate is not None:
        return "they are released"
    queues = sorted({lane.lane.origin for lane in found.lot.lanes if lane.lane.origin})
    needed = f": it takes a worker that consumes {', '.join(queues)}" if queues else ""
    return f"nothing was released lately{needed}"


def _turns_rows(found: Sequence[Shown], by: str) -> Iterator[tuple[object, ...]]:
    for one in found:
        now = one.standing.lot.now if one.standing.lot is not None else 0
        for turns in one.turns:
            lane = turns.lane
            own = () if lane is None else (lane.name,)
            rank = () if lane is None else (lane.rank,)
            drain = "unknown" if turns.drain is None else span(turns.drain)
            estimated = (_said_rate(turns.rate), drain) if lane is None else ()
            yield (
                one.standing.name, *own, turns.tenant, *rank, turns.waiting,
                span(now - turns.oldest), f"{turns.share:.0%} (weight {turns.weight})", *estimated,
                _said_blocked(turns.blocked_until, turns.blocked_by, now),
            )  # fmt: skip


def _said_blocked(until: int, by: str, now: int) -> str:
    if until <= now:
        return "" if until else by
    said = "paused" if until >= FOREVER else f"for {span(until - now)}"
    return f"{said} ({by})" if by else said


def parked(told: Told) -> None:
    """A parked task, line by line."""
    found, estimate = told.parked, told.estimate
    entry = found.entry
    what = "released to a worker, and has not ended" if found.released else "parked"
    lines = [f"It is {what}: {found.task or 'its message cannot be read'}"]
    if told.arguments:
        lines.append(f"  called with  {told.arguments}")
    lines.append(
        f"  waits for    {found.upstream}, in lane {entry.lane.name} "
        f"({told.tenant}, priority {told.priority})"
    )
    if not found.released:
        lines.append(
            f"  position     {entry.position} of {estimate.behind} in its lane; "
            f"{estimate.lanes} lanes of {estimate.keys} tenants take turns"
        )
    lines.append(f"  since        {when(entry.since)} ({span(estimate.now - entry.since)})")
    if entry.deadline:
        left = entry.deadline - estimate.now
        lines.append(
            f"  deadline     {when(entry.deadline)} "
            f"({f'in {span(left)}' if left > 0 else 'over: it dies when its turn comes'})"
        )
    lines.append(f"  release      {_said_release(found, estimate)}")
    for line in lines:
        click.echo(printable(line))


def _said_release(found: Parked, estimate: ReleaseEstimate) -> str:
    if found.released:
        return f"done: stop it with celery -A APP control revoke {found.task_id}"
    if estimate.held_up is not None:
        return f"not while {_said_held_up(estimate.held_up)}"
    ahead = f"about {estimate.ahead} tasks before it"
    blocked = _said_blocked(estimate.blocked_until, estimate.blocked_by, estimate.now)
    if blocked:
        ahead += f", and its lane is blocked: {blocked}"
    if estimate.at is None or estimate.rate is None:
        return f"unknown: nothing was released lately; {ahead}"
    said = f"about {when(estimate.at)} (in {span(estimate.at - estimate.now)})"
    late = ""
    if found.entry.deadline and estimate.at > found.entry.deadline:
        late = ". That is after its deadline"
    return f"{said}. An estimate: {ahead}, {estimate.rate:.3g}/s released lately{late}"


def _said_held_up(held: HeldUp) -> str:
    what = "the upstream is paused" if held.by == "pause" else "its breaker is open"
    return what if held.until >= FOREVER else f"{what}, until {when(held.until)}"


def preview(tasks: Sequence[Parked]) -> None:
    """Print on stderr what a cancellation would take out."""
    click.echo(f"{len(tasks)} to cancel", err=True)
    tally("tasks", (task.task for task in tasks))
    tally("upstreams", (task.upstream for task in tasks))
