"""One call on its way to its admission."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from governor.messages.header import Header
from governor.policy.decision import (
    AnyCharge,
    Charge,
    ClaimAsk,
    LaneKey,
    LeaseCharge,
    Reservation,
)
from governor.policy.plan import CallPlan

_NEVER = 1 << 62


class Admission(NamedTuple):
    """An admitted call's holdings, until it is settled.

    Attributes:
        leases: its leases, by the buckets of their concurrency limits.
        probe: whether it was let through as a probe of a half-open breaker.
    """

    leases: tuple[str, ...] = ()
    probe: bool = False


class WaitsFor(NamedTuple):
    """Reason of a wait of which the store has said how long it is.

    Attributes:
        limit: the binding limit.
        woken: whether news may come earlier: of a lease that came free, or of a probe.
    """

    limit: str
    woken: bool = False


@dataclass(slots=True)
class Call:
    """One governed execution on its way to its admission.

    Attributes:
        claim: for a non-idempotent task, its claim on (task id, attempt).
        holder: names this delivery in concurrency limits.
        lane: where it waits in its upstream's parking lot; ``None``: it is not parked.
        deadline: monotonic microseconds until which a caller blocks, instead of the task's own
            patience.
        charges: what it takes from each limit.
        header: what is known about the message, and about this call's waiting.
        version: of the limits in force from which the charges were made.
        slot: monotonic microseconds of its slot, once an answer named one.
        covered: everything is paid for its slot: no second question is needed at it.
        admission: what it holds; ``None`` before it is admitted, and again once it is settled.
        waits_for: the reason of its wait, or of its last one; ``None`` if it did not wait.
        had_turn: it had a slot once: if it could not use that, it goes before others of its lane.
        late: it could not use the slot it has paid for in time, and keeps it.
        full: its one bucket is full at the slot.
        local: what it holds in this worker's own limits while the store is away.
    """

    plan: Final[CallPlan]
    charges: tuple[AnyCharge, ...]
    header: Header
    claim: Final[ClaimAsk | None] = None
    holder: Final[str] = ""
    lane: Final[LaneKey | None] = None
    deadline: Final[int | None] = None
    version: int = 0
    slot: int | None = None
    covered: bool = False
    admission: Admission | None = None
    waits_for: WaitsFor | None = None
    had_turn: bool = False
    late: bool = False
    full: bool = False
    local: tuple[Reservation, ...] = ()

    @property
    def limit(self) -> str | None:
        """The limit the call waits for, or waited for before it was admitted."""
        return None if self.waits_for is None else self.waits_for.limit

    @property
    def upstream(self) -> str:
        return self.plan.upstream.name

    @property
    def leases(self) -> tuple[str, ...]:
        """Buckets of the concurrency limits in which the call takes a lease."""
        # Asked at every decision, and most calls have none.
        for charge in self.charges:
            if isinstance(charge, LeaseCharge):
                return tuple(c.bucket for c in self.charges if isinstance(c, LeaseCharge))
        return ()

    @property
    def leeway(self) -> int:
        """Microseconds after its slot for which the calls of a full bucket are no more than its
        burst, however many of them are made at once; 0 where the bucket may not be full."""
        charge = self.charges[0] if self.full else None
        return charge.capacity - charge.interval if isinstance(charge, Charge) else 0

    @property
    def gives_up_at(self) -> int:
        """Store time beyond which the call does not wait; never, before the store's first
        answer."""
        give_up_at = self.header.give_up_at
        return _NEVER if give_up_at is None else give_up_at

    def paid_at(self, slot: int) -> tuple[Reservation, ...]:
        """Make the reservations of a call that has paid all its limits, but for leases, at
        ``slot``."""
        return tuple(
            Reservation(charge.bucket, slot, paid=True)
            for charge in self.charges
            if not isinstance(charge, LeaseCharge)
        )

    def parts(self) -> Iterator[str]:
        """Name the parts of the upstream's data that admission touches; see :func:`parts_of`."""
        return parts_of((charge.bucket for charge in self.charges), self.claim)


def parts_of(buckets: Iterable[str], claim: ClaimAsk | None) -> Iterator[str]:
    """Name buckets and a claim as :class:`~governor.errors.UpstreamStateError` does its part."""
    yield from buckets
    if claim is not None:
        yield f"c:{claim.task_id}:{claim.attempt}:{claim.message}"


def charges_of(
    plan: CallPlan, header: Header, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[AnyCharge, ...]:
    """Take the charges that the header names, else compute them from the arguments.

    Raises:
        DeclarationError: a cost function failed.
    """
    if header.upstream == plan.upstream.name:
        found = plan.charges_named(header.limits)
        if found is not None:
            return found
    return plan.charges(args, kwargs)
