"""Events of upstreams, of the limiter store and of this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from governor.events.tasks import Event


@dataclass(frozen=True, slots=True)
class LeaseExpired(Event):
    """A lease of a running call of this process ran out before it was renewed.

    Attributes:
        upstream: its upstream's name.
        holder: names the delivery, or the call.
    """

    kind: ClassVar[str] = "lease_expired"

    upstream: str
    holder: str


@dataclass(frozen=True, slots=True)
class StoreAway(Event):
    """The limiter store does not answer, or not about one upstream.

    Attributes:
        upstream: the one it does not answer about; empty: none.
        error: the exception's class.
    """

    kind: ClassVar[str] = "store_away"

    upstream: str
    error: str


@dataclass(frozen=True, slots=True)
class StoreBack(Event):
    """The limiter store answers again.

    Attributes:
        upstream: as in :class:`StoreAway`.
        away: since the first question without an answer.
    """

    kind: ClassVar[str] = "store_back"

    upstream: str
    away: int


@dataclass(frozen=True, slots=True)
class StateLost(Event):
    """The limiter store has forgotten an upstream that this worker knew there: its buckets begin
    without a burst.

    Attributes:
        upstream: its name.
    """

    kind: ClassVar[str] = "state_lost"

    upstream: str


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """This process has read limits that a person has changed.

    Attributes:
        upstream: its name.
        version: of the limits in force; grows with every change.
        changed: how many numbers and pauses of single keys differ from what is declared.
    """

    kind: ClassVar[str] = "limit_changed"

    upstream: str
    version: int
    changed: int


@dataclass(frozen=True, slots=True)
class UpstreamPaused(Event):
    """This worker has learned that an upstream is paused, or is so for longer.

    Attributes:
        upstream: its name.
        until: wall-clock microseconds.
    """

    kind: ClassVar[str] = "paused"

    upstream: str
    until: int


@dataclass(frozen=True, slots=True)
class BreakerMoved(Event):
    """This worker has learned that an upstream's breaker has another state.

    Attributes:
        upstream: its name.
        before, after: ``closed``, ``open`` or ``half_open``.
    """

    kind: ClassVar[str] = "breaker_moved"

    upstream: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class LoadShed(Event):
    """A producer was refused: too many tasks wait (``Overloaded``).

    Attributes:
        task: the type of the task that was to be published.
        waiting: tasks in the upstream's parking lot.
        bound: what it is beyond: ``max_waiting`` or ``max_wait``.
    """

    kind: ClassVar[str] = "shed"

    upstream: str
    task: str
    waiting: int
    bound: str


@dataclass(frozen=True, slots=True)
class StoreAnswered(Event):
    """One round trip to the limiter store.

    Attributes:
        call: ``admit``, ``settle``, ``park``, ``release`` or ``steer``.
        questions: how many it answered.
        took: its duration.
    """

    kind: ClassVar[str] = "store_answered"

    call: str
    questions: int
    took: int
