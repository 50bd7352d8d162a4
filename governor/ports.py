"""Every seam of the governor on one page.

A port is a :class:`~typing.Protocol`. The limiter store and its parking lots have two
implementations each, and one conformance suite that is run against both
(``governor.testing.conformance``). Dead letters have one, on two databases, and tests put
simple ones of their own in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from governor.errors import StoreUnavailable
from governor.policy.adjustment import Adjustment
from governor.policy.admission import UpstreamState
from governor.policy.decision import Answer, AnyCharge, Ask
from governor.policy.parking_values import (
    Arrival,
    LotView,
    Overdue,
    ParkedTask,
    Parking,
    ReleaseAsk,
    Released,
    Steering,
)
from governor.policy.settlement import Settled, Settlement


class Reason(StrEnum):
    """Why a task will not run again by itself. The list is closed."""

    RETRIES_EXHAUSTED = "retries_exhausted"
    NOT_RETRYABLE = "not_retryable"
    NOT_IDEMPOTENT = "not_idempotent"
    OUTCOME_UNKNOWN = "outcome_unknown"
    DEFERRAL_BUDGET_EXHAUSTED = "deferral_budget_exhausted"
    DEFER_PUBLISH_FAILED = "defer_publish_failed"
    HARD_TIME_LIMIT = "hard_time_limit"
    WORKER_LOST = "worker_lost"
    MEMORY_ERROR = "memory_error"
    SYSTEM_EXIT = "system_exit"
    REJECTED = "rejected"
    UNKNOWN_TASK = "unknown_task"
    UNDECODABLE = "undecodable"
    INVALID_MESSAGE = "invalid_message"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class MessageCopy:
    """A broker message, exact enough to be sent again.

    Attributes:
        body: the bytes as published (before any transport encoding).
        headers: the message headers, ``governor`` included.
        properties: ``content_type``, ``content_encoding``, ``correlation_id``, ``reply_to``,
            ``priority``, ``delivery_mode``; nothing the broker adds.
        exchange, routing_key: where it was published.
        queue: the queue it was consumed from, when known.
    """

    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    exchange: str
    routing_key: str
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """The facts known when a task dies: the input from which a dead-letter row is made.

    Times are wall-clock microseconds. Texts are not yet redacted: the repository redacts
    before anything is written.

    Attributes:
        delivery: the attempt at death (Celery's ``retries``), unique with ``task_id`` and the
            message's id.
        message_id: tells the message from others of its task id, where the copy cannot say it.
        began: whether the body had begun in some delivery of the message; ``None``: not known,
            or of no consequence.
        exc_chain: exception type names, outermost first (``__cause__``/``__context__``).
        last_frame: ``(module, function)`` of the last frame of the user's own code.
        http_status: status of the upstream's response, when there was one.
        waited_seconds: from the first admission decision to death.
    """

    reason: Reason
    message: MessageCopy
    dead_at: int
    task_id: str | None = None
    task_name: str | None = None
    delivery: int = 0
    message_id: str | None = None
    began: bool | None = None
    upstream: str | None = None
    limit_keys: Sequence[str] = ()
    tenant: str | None = None
    idempotent: bool | None = None
    idempotency_key: str | None = None
    exc_type: str | None = None
    exc_message: str | None = None
    exc_chain: Sequence[str] = ()
    last_frame: tuple[str, str] | None = None
    http_status: int | None = None
    traceback: str | None = None
    args_redacted: str | None = None
    deferrals: int = 0
    waited_seconds: float = 0.0
    first_failed_at: int | None = None
    hostname: str | None = None
    trace_id: str | None = None
    attempt_log: Sequence[Mapping[str, Any]] = field(default=())


class DeadLetters(Protocol):
    """The table of deaths. Called from a thread, never from the worker's event loop."""

    def record(self, death: Death) -> str:
        """Write one row and return its id; writing the same (task_id, delivery, message) again
        returns the id of the first row and changes nothing.

        Raises:
            DatabaseUnavailable: nothing was written; the caller spills or keeps the message.
        """
        ...

    def replay_succeeded(self, replay_task_id: str, at: int) -> None:
        """The replay with this task id succeeded: its dead letter becomes ``resolved``.

        Raises:
            DatabaseUnavailable: nothing was changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """A person's change of an upstream, and the reason.

    Attributes:
        what: ``pause``, ``resume``, ``set`` or ``reset``.
        target: a limit's key, or a bucket's name for a pause of one key; ``""`` is the upstream.
        value: the numbers set, as text; for a pause the instant at which it ends, in
            microseconds on the store's clock; for a resumed upstream whose rates adapt the share
            of them that it begins with, in 1,024ths.
        by, why: who, and for what reason. Kept with the time.
    """

    upstream: str
    what: Literal["pause", "resume", "set", "reset"]
    target: str
    value: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class InForce:
    """The changes of an upstream that are in force.

    Attributes:
        version: grows with every change.
        values: by target: the numbers of a limit, or ``pause:`` and a bucket's name.
    """

    version: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """An upstream as the store knows it, for people; nothing is decided from it.

    Attributes:
        now: the store's time.
        state: as the policy sees it; meters only of the charges asked about.
        in_force: the changes in force.
        log: the latest changes, newest first, each with ``at`` (microseconds).
    """

    now: int
    state: UpstreamState
    in_force: InForce
    log: Sequence[Mapping[str, str]] = ()


class ParkingLots(Protocol):
    """Parking lots outside broker and worker, one for each upstream. All calls are bounded by a
    timeout.

    Each raises :class:`~governor.errors.StoreUnavailable` when there was no answer in time; what
    was asked for may or may not have been done.
    """

    def park(self, upstream: str, arrivals: Sequence[Arrival]) -> Parking:
        """Take tasks in, each once. ``"lot"`` is heard when the first begins to wait."""
        ...

    def release(self, ask: ReleaseAsk) -> Released:
        """Let out what may go now.

        A task that was let out is still kept: it comes back to the front of its lane when it was
        not renewed for ``ask.lease``.
        """
        ...

    def overdue(self, upstream: str, groups: Sequence[str], at: int, lease: int) -> Overdue:
        """Let out the tasks of these groups whose time is over, to be dead letters: their lanes may
        have no worker that releases them. Lanes before ``at`` were looked at before."""
        ...

    def renew(self, upstream: str, entries: Sequence[str], lease: int) -> None:
        """Keep released entries alive."""
        ...

    def steer(self, upstream: str, steering: Steering) -> Sequence[bytes]:
        """Change entries; return the messages of those that were changed."""
        ...

    def find(self, upstream: str, task_id: str) -> Sequence[ParkedTask]:
        """The entries of one task, waiting or released: one for each attempt and message."""
        ...

    def groups(self, upstream: str) -> Mapping[str, str]:
        """The groups that have lanes, each with its queue; perhaps some that had one before."""
        ...

    def view(self, upstream: str) -> LotView:
        """The lot as it is, for people."""
        ...

    def waiting(self, upstream: str) -> tuple[int, int, int]:
        """Tasks in its lanes; tasks released lately, and in how many microseconds."""
        ...


class LimiterStore(Protocol):
    """The keeper of limits, shared by the fleet. All calls are bounded by a timeout.

    What concerns one upstream only is raised as
    :class:`~governor.errors.UpstreamStateError`, a ``StoreUnavailable``.
    """

    @property
    def lots(self) -> ParkingLots:
        """The store's parking lots: one store decides about both at once."""
        ...

    def admit(self, ask: Ask) -> Answer:
        """Decide and, all or nothing, charge. One round trip.

        Raises:
            StoreUnavailable: no answer in time; the call may or may not have been charged.
        """
        ...

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer | StoreUnavailable]:
        """Decide several questions in the order given, in one round trip.

        In the place of one that was refused stands the error it would raise alone.

        Raises:
            StoreUnavailable: no complete answer in time; any of them may have been charged.
        """
        ...

    def settle(self, settlement: Settlement) -> Settled:
        """Record what an execution leaves behind; one that leaves nothing makes the
        upstream known to the store, from when on its buckets fill up their burst.

        Raises:
            StoreUnavailable: no answer in time; it may or may not have been recorded.
        """
        ...

    def adjust(self, upstream: str, adjustments: Sequence[Adjustment]) -> None:
        """Correct what was charged, or what the upstream says is used.

        Raises:
            StoreUnavailable: no answer in time; it may or may not have been recorded.
        """
        ...

    def claimed_by(self, upstream: str, task_id: str, attempt: int, message: str) -> str | None:
        """Return the token of the delivery that has claimed this message: its body may have begun.

        ``""`` once it has ended or was buried; ``None``: none has.

        Raises:
            StoreUnavailable: no answer in time.
        """
        ...

    def change(self, change: Change) -> InForce:
        """Change an upstream, keep who did it and why, and tell those who wait.

        Raises:
            StoreUnavailable: no answer in time; it may or may not have been changed.
        """
        ...

    def in_force(self, upstream: str) -> InForce:
        """The changes in force.

        Raises:
            StoreUnavailable: no answer in time.
        """
        ...

    def look(self, upstream: str, charges: Sequence[AnyCharge]) -> Look:
        """The upstream as it stands, with the meters these charges are taken from.

        Raises:
            StoreUnavailable: no answer in time.
        """
        ...

    def log(self, upstream: str, since: int) -> Sequence[Mapping[str, str]]:
        """List people's changes at ``since`` (µs on the store's clock) or later, newest first.

        Each is as in :attr:`Look.log`; about :data:`~governor.keys.RECORDS_KEPT` are kept.

        Raises:
            StoreUnavailable: no answer in time.
        """
        ...

    def listen(self, heard: Callable[[str, str], None]) -> Callable[[], None]:
        """Call ``heard(upstream, what)`` from now on, whenever calls that wait may go earlier.

        ``what`` is the bucket in which a lease came free, ``"breaker"``, ``"change"`` or
        ``"lot"``; both are empty when news may have been missed. The thread is the store's.

        Returns:
            what ends it.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
