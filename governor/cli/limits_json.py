"""Limits for programs, as JSON."""

from __future__ import annotations

from typing import Any

from governor.cli.limits_view import said_reason, said_target
from governor.cli.printing import when
from governor.clock import SECOND
from governor.operations.limit_status import (
    FOREVER,
    LimitStatusReader,
    LimitView,
    Pause,
    Record,
    UpstreamView,
)
from governor.policy.breaker import Closed, Open


def upstream_as_json(view: UpstreamView, standing: LimitStatusReader) -> dict[str, Any]:
    """An upstream for JSON. Spans are seconds; what is absent or unknown is null."""
    return {
        "upstream": view.name,
        "at": when(view.now),
        "store": {
            "reachable": view.now is not None or view.problem is not None,
            "problem": view.problem,
            "when_down": view.store_down,
        },
        "max_wait": view.max_wait / SECOND,
        "pauses": [_pause_as_json(pause, view, standing) for pause in view.pauses],
        "breaker": _breaker_as_json(view),
        "adaptive": None if view.share is None else {"share": round(view.share, 4)},
        "limits": [limit_as_json(each) for each in view.limits],
    }


def limit_as_json(each: LimitView) -> dict[str, Any]:
    """A limit for JSON."""
    rule, found = each.declared.rule, each.numbers
    changed = None
    if each.changed:
        record = each.record
        changed = {
            "at": None if record is None else when(record.at),
            "by": None if record is None else record.by,
            "why": None if record is None else record.why,
        }
    return {
        "name": rule.name,
        "key": each.declared.bucket,
        "kind": type(rule).__name__,
        "task": each.declared.task,
        "per": rule.per,
        "value": each.value,
        "declared": rule.numbers(),
        "in_force": dict(each.in_force),
        "changed": changed,
        "limit": None if found is None else found.limit,
        "remaining": None if found is None else found.remaining,
        "retry_after": None if found is None else _seconds(found.retry_after),
        "reset_after": None if found is None else _seconds(found.reset_after),
    }


def record_as_json(record: Record, upstream: str, standing: LimitStatusReader) -> dict[str, Any]:
    """A change for JSON."""
    return {
        "at": when(record.at),
        "by": record.by,
        "what": record.what,
        "target": record.target,
        "of": said_target(record, upstream, standing),
        "value": record.value,
        "why": record.why,
    }


def _pause_as_json(pause: Pause, view: UpstreamView, standing: LimitStatusReader) -> dict[str, Any]:
    record = pause.record
    return {
        "key": standing.shown(view.name, pause.bucket) if pause.bucket else None,
        "until": None if pause.until >= FOREVER else when(pause.until),
        "since": None if record is None else when(record.at),
        "by": None if record is None else record.by,
        "why": said_reason(pause, view.now or 0) if record is None else record.why,
    }


def _breaker_as_json(view: UpstreamView) -> dict[str, Any] | None:
    match view.breaker:
        case None:
            return None
        case Closed(ring):
            return {"state": "closed", "failures": ring.count("1"), "of": len(ring), "until": None}
        case Open(until):
            return {"state": "open", "until": when(until)}
        case half:
            return {"state": "half-open", "level": half.level, "until": when(half.until)}


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else micros / SECOND
