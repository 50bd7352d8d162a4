"""Parked tasks for programs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from governor.cli.printing import when
from governor.cli.waiting_view import Shown, Told
from governor.clock import SECOND
from governor.operations.limit_status import FOREVER
from governor.operations.parking_status import (
    HeldUp,
    Turns,
)


def lot_as_json(one: Shown, by: str | None) -> dict[str, Any]:
    """A parking lot for JSON. Spans are seconds; what is absent or unknown is null."""
    found = one.standing
    lot, held = found.lot, found.held_up
    rate, drain = found.rate, found.drain
    said: dict[str, Any] = {
        "upstream": found.name,
        "at": None if lot is None else when(lot.now),
        "parking": found.parking,
        "waiting": None if lot is None else lot.waiting,
        "released": None if lot is None else lot.out,
        "oldest_since": when(found.oldest),
        "released_per_second": None if rate is None else round(rate, 3),
        "drain_seconds": None if drain is None else drain / SECOND,
        "held_up": None if held is None else _held_up_as_json(held),
    }
    if by is not None:
        said[f"{by}s"] = [_turns_as_json(turns) for turns in one.turns]
        said["known"] = one.known
    return said


def _turns_as_json(turns: Turns) -> dict[str, Any]:
    said: dict[str, Any] = {"tenant": turns.tenant}
    if turns.lane is None:
        rate, drain = turns.rate, turns.drain
        said |= {
            "lanes": turns.lanes,
            "rate_estimate": None if rate is None else round(rate, 3),
            "drain_seconds_estimate": None if drain is None else drain / SECOND,
        }
    else:
        said |= {"lane": turns.lane.name, "rank": turns.lane.rank}
    return {
        **said,
        "waiting": turns.waiting,
        "oldest_since": when(turns.oldest),
        "weight": turns.weight,
        "share": round(turns.share, 4),
        "blocked_until": _until(turns.blocked_until),
        "blocked_by": turns.blocked_by or None,
    }


def parked_as_json(told: Told) -> dict[str, Any]:
    """A parked task for JSON."""
    found, estimate = told.parked, told.estimate
    entry, held = found.entry, estimate.held_up
    return {
        "task_id": found.task_id,
        "task": found.task,
        "arguments": told.arguments,
        "upstream": found.upstream,
        "released": found.released,
        "lane": entry.lane.name,
        "tenant": told.tenant,
        "priority": told.priority,
        "position": entry.position or None,
        "in_lane": estimate.behind,
        "lanes": estimate.lanes,
        "tenants": estimate.keys,
        "ahead": None if found.released else estimate.ahead,
        "since": when(entry.since),
        "deadline": when(entry.deadline) if entry.deadline else None,
        "release_estimate": None if found.released else when(estimate.at),
        "held_up": None if held is None else _held_up_as_json(held),
        "blocked_until": _until(estimate.blocked_until),
        "blocked_by": estimate.blocked_by or None,
    }


def all_parked_as_json(told: Sequence[Told]) -> dict[str, Any] | None:
    """A parked task for JSON; ``others`` are further attempts and messages of it."""
    if not told:
        return None
    first, *others = map(parked_as_json, told)
    return {**first, "others": others}


def _held_up_as_json(held: HeldUp) -> dict[str, Any]:
    return {"by": held.by, "until": _until(held.until)}


def _until(moment: int) -> str | None:
    return None if not moment or moment >= FOREVER else when(moment)
