"""The ``governor`` message header: a versioned contract between producers and workers.

It travels as a plain dictionary under the message header ``governor``. A worker reads
version 1 and ignores keys it does not know, so a newer producer may add some. A header of a
newer version, or a broken one, is treated as absent: the worker then computes everything
from the task's arguments, which is slower and never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from governor.keys import stamped_id
from governor.policy.decision import Reservation

NAME = "governor"
VERSION = 1

_EXACT = 1 << 53
"""Lua's numbers are exact up to here."""

_SCALARS = (
    "upstream", "mid", "idem", "of", "give_up_at", "first", "deferrals", "throttles", "began",
    "replay_of", "fair", "limit",
)  # fmt: skip


_FIRST_ATTEMPTS, _LAST_ATTEMPTS = 1, 50
_LONGEST_TYPE = 100


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt: a line of the attempt log.

    Attributes:
        at: wall microseconds.
        exc_type: the exception's class.
        http_status: of the upstream's response, else 0.
        wait: microseconds until the next attempt, 0 if there is none.
    """

    at: int
    exc_type: str
    http_status: int = 0
    wait: int = 0


class Header(NamedTuple):
    """Facts that the governor knows about one message.

    A tuple: it is replaced as facts are learned, several times for each task, and to make a frozen
    dataclass takes four times as long.

    Attributes:
        upstream: its name.
        limits: each bucket's cost, as computed by the producer.
        mid: names this message among those of its task id. Every publish makes a new one;
            redeliveries, deferrals, parking and the governor's retries keep it.
        idem: the idempotency key: the :func:`work_id` of the task as first published.
        of: the :func:`work_id` the header was made for, where that is not ``idem``.
        give_up_at: store time beyond which the task does not wait.
        first: store time of the first admission decision.
        deferrals: how often it was parked, or handed back to the broker, to wait.
        throttles: how often in a row the upstream itself said "not now".
        reserved: what it holds in its limits while it waits.
        began: wall time at which its first attempt began.
        replay_of: the dead letter it replays.
        fair: whose turn it takes while tasks are parked: the value of the upstream's ``fair_by``.
        limit: the limit for which it was parked or deferred last, where that is known.
        attempts: how the first attempt failed, and the latest fifty.
    """

    upstream: str = ""
    limits: Mapping[str, int] = MappingProxyType({})
    mid: str | None = None
    idem: str | None = None
    of: str | None = None
    give_up_at: int | None = None
    first: int | None = None
    deferrals: int = 0
    throttles: int = 0
    reserved: tuple[Reservation, ...] = ()
    began: int | None = None
    replay_of: str | None = None
    fair: str | None = None
    limit: str | None = None
    attempts: tuple[Attempt, ...] = ()

    def to_message(self) -> dict[str, Any]:
        """Make the wire form; what is unset is left out."""
        wire: dict[str, Any] = {"v": VERSION}
        if self.limits:
            wire["limits"] = dict(self.limits)
        for name in _SCALARS:
            if value := getattr(self, name):
                wire[name] = value
        if self.reserved:
            wire["slots"] = [[r.bucket, r.slot, int(r.paid)] for r in self.reserved]
        if self.attempts:
            wire["log"] = [[a.at, a.exc_type, a.http_status, a.wait] for a in self.attempts]
        return wire

    @classmethod
    def from_message(cls, headers: Mapping[str, Any]) -> Header:
        """Read a message's header; one with nothing but its message id when it cannot be read."""
        wire = headers.get(NAME)
        mid = stamped_id(wire)
        if not isinstance(wire, dict) or wire.get("v") != VERSION:
            return cls(mid=mid)
        try:
            found = {
                attribute: read(wire[name])
                for name, (attribute, read) in _FIELDS.items()
                if name in wire
            }
            return cls(mid=mid, **found)
        except (TypeError, ValueError, KeyError, IndexError):
            return cls(mid=mid)

    def is_of(self, work: str) -> bool:
        """Tell whether the header was made for this work, and not passed on to another task."""
        return (self.of or self.idem) == work

    def key_of(self, work: str) -> str:
        """Return the idempotency key of this work."""
        return self.idem if self.idem and self.is_of(work) else work

    def failed(self, attempt: Attempt) -> Header:
        """Return the header with one more line in its attempt log, whose size is bounded."""
        attempt = replace(attempt, exc_type=attempt.exc_type[:_LONGEST_TYPE])
        return self._replace(attempts=_bounded((*self.attempts, attempt)))

    def next_attempt(self) -> Header:
        """Return the header of a retry: a fresh patience, the same identity."""
        return self._replace(
            give_up_at=None, first=None, deferrals=0, throttles=0, reserved=(), limit=None
        )

    def waiting_elsewhere(self, limit: str | None) -> Header:
        """Return the header of a message that is parked or deferred once more, for this limit."""
        return self._replace(deferrals=self.deferrals + 1, limit=limit or self.limit)


def work_id(task_id: str, nesting: Any) -> str:
    """Name the work that a message asks for: task id, and number of its ``replace()``."""
    return f"{task_id}:{nesting}" if isinstance(nesting, int) and nesting > 0 else task_id


def is_whole(log: Sequence[Attempt], failed: int) -> bool:
    """Tell whether the log knows the first of so many failures. Retries of a task type that only
    a route governs are Celery's, and write no line."""
    return len(log) >= min(failed, _FIRST_ATTEMPTS + _LAST_ATTEMPTS)


def _bounded(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    known = tuple(attempts)
    if len(known) <= _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
        return known
    return known[:_FIRST_ATTEMPTS] + known[-_LAST_ATTEMPTS:]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.isascii():
        value.encode()  # it goes into keys, which hold no lone surrogate
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _EXACT:
        raise TypeError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number_or_none(value: Any) -> int | None:
    return None if value is None else _number(value)


def _costs(value: Any) -> dict[str, int]:
    return {_text(bucket): _number(cost) for bucket, cost in dict(value).items()}


def _reservations(value: Any) -> tuple[Reservation, ...]:
    return tuple(
        Reservation(_text(bucket), _number(slot), bool(_number(paid)))
        for bucket, slot, paid in value
    )


def _attempts(value: Any) -> tuple[Attempt, ...]:
    return _bounded(
        Attempt(_number(at), _text(kind), _number(status), _number(wait))
        for at, kind, status, wait in value
    )


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "upstream": ("upstream", _text),
    "limits": ("limits", _costs),
    "idem": ("idem", _text_or_none),
    "of": ("of", _text_or_none),
    "give_up_at": ("give_up_at", _number_or_none),
    "first": ("first", _number_or_none),
    "deferrals": ("deferrals", _number),
    "throttles": ("throttles", _number),
    "slots": ("reserved", _reservations),
    "began": ("began", _number_or_none),
    "replay_of": ("replay_of", _text_or_none),
    "fair": ("fair", _text_or_none),
    "limit": ("limit", _text_or_none),
    "log": ("attempts", _attempts),
}
"""The attribute of each field of the wire form, and how it is read; most messages have three."""
