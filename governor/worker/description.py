"""The requests that wait in a worker, for people. Instants are wall-clock microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery.worker.state import reserved_requests

from governor.clock import Clock, as_micros
from governor.messages.header import Header
from governor.worker.request import GovernedRequest


def waiting_here(
    held: Iterable[GovernedRequest], asking: Iterable[GovernedRequest], clock: Clock
) -> list[dict[str, Any]]:
    """Describe each task that waits by one mapping: those that are held until an instant, those
    that want a pool slot, and those whose countdown runs."""
    wall, now = clock.wall(), clock.monotonic()
    found: list[dict[str, Any]] = []
    for where, requests in (("held", held), ("asking", asking)):
        for request in requests:
            call = request.call
            assert call is not None
            until = None if call.slot is None else wall + call.slot - now
            found.append(_described(request, call.header, where, until, call.limit))
    for request in list(reserved_requests):
        if isinstance(request, GovernedRequest) and request.call is None:
            header = Header.from_message(request.request_dict)
            eta = request.eta
            due = as_micros(eta) if isinstance(eta, datetime) else None
            found.append(_described(request, header, "deferred", due, None))
    return found


def _described(
    request: GovernedRequest, header: Header, where: str, until: int | None, limit: str | None
) -> dict[str, Any]:
    return {
        "task_id": request.id,
        "task": request.name,
        "upstream": header.upstream,
        "where": where,
        "until": until,
        "limit": limit,
        "since": header.first,
        "deferrals": header.deferrals,
        "reserved": [[r.bucket, r.slot, r.paid] for r in header.reserved],
    }
