"""One call on its way to its admission."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from governor.messages.header import Header
from governor.policy.decision import AnyCharge, ClaimAsk, LaneKey, LeaseCharge, Reservation
from governor.policy.plan import CallPlan

_NEVER = 1 << 62


@dataclass(slots=True)
class Call:
    """One governed execution on its way to its admission.

    Attributes:
        charges: what it takes from each limit.
        header: what is known about the message, this call's own.
        claim: for a non-idempotent task, its claim on (task id, attempt).
        holder: names this delivery in concurrency limits.
        slot: monotonic microseconds of the slot held, once an answer named one.
        settled: the held slot covers everything: no second question is needed at it.
        patience: microseconds of a caller that blocks until its slot, instead of the task's own.
        version: of the limits in force from which the charges were made.
        binding: the limit it waits for, or waited for last; ``None`` if it did not.
        woken: it waits for a lease or a probe, and will be told of one.
        admitted: it has been admitted and not settled since: it may hold leases.
        had_turn: it had a slot once: if it could not use that, it goes before others of its lane.
        probe: it was let through as a probe of a half-open breaker.
        local: what it holds in this worker's own limits while the store is away.
        lane: where it waits in its upstream's parking lot; ``None``: it is not parked.
        late: it could not use the slot it has paid for in time, and keeps it.
    """

    plan: CallPlan
    charges: tuple[AnyCharge, ...]
    header: Header
    claim: ClaimAsk | None = None
    holder: str = ""
    slot: int | None = None
    settled: bool = False
    patience: int | None = None
    version: int = 0
    binding: str | None = None
    woken: bool = False
    admitted: bool = False
    had_turn: bool = False
    probe: bool = False
    local: tuple[Reservation, ...] = ()
    lane: LaneKey | None = None
    late: bool = False

    @property
    def upstream(self) -> str:
        return self.plan.upstream.name

    @property
    def leases(self) -> tuple[str, ...]:
        """The concurrency limits in which it takes a lease, by bucket."""
        # Asked at every decision, and most calls have none.
        for charge in self.charges:
            if isinstance(charge, LeaseCharge):
                return tuple(c.bucket for c in self.charges if isinstance(c, LeaseCharge))
        return ()

    @property
    def gives_up_at(self) -> int:
        """Store time beyond which it does not wait; never, before the store's first answer."""
        give_up_at = self.header.give_up_at
        return _NEVER if give_up_at is None else give_up_at

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
    """The charges the header names, or else those computed from the arguments.

    Raises:
        DeclarationError: a cost function failed.
    """
    if header.upstream == plan.upstream.name:
        found = plan.charges_named(header.limits)
        if found is not None:
            return found
    return plan.charges(args, kwargs)
