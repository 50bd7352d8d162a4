"""The question an admission asks and the answers it may get. Values, not exceptions.

All instants are microseconds on the store's clock, all durations microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar, dataclass_transform

from governor.policy import quota
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.breaker import BreakerPolicy

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def _value(cls: type[_T]) -> type[_T]:
    """A dataclass that the type checker keeps from being changed. These are made at every
    decision, and ``frozen=True``, which has Python check it as well, makes them at half the speed
    or less."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass(frozen=True, slots=True)
class Charge:
    """One call's charge on a leaky bucket.

    Every kind of charge has these:

    Attributes:
        bucket: names the bucket within its upstream (limit key, and the hashed argument
            for a ``per=`` limit).
        limit: the limit's name, as people read it.
        interval: how long the bucket takes to leak this call's cost.
        capacity: how far ahead of the leak the bucket may be filled: the effective burst.
            Never less than ``interval``.
        cost: cost units of the call.
    """

    bucket: str
    limit: str
    interval: int
    capacity: int
    cost: int = 1


@dataclass(frozen=True, slots=True)
class WindowCharge:
    """One call's charge on a sliding window.

    Attributes:
        most: cost units in any ``span`` microseconds.
    """

    bucket: str
    limit: str
    most: int
    span: int
    cost: int = 1


@dataclass(frozen=True, slots=True)
class QuotaCharge:
    """One call's charge on a quota that starts over at a fixed moment.

    Attributes:
        most: cost units in each period.
        reset: when a period ends: with the ``"day"`` or the ``"month"``.
        zone: of which time zone.
        bounds: four boundaries of periods around the asker's wall time; see :meth:`dated`.
    """

    bucket: str
    limit: str
    most: int
    reset: quota.Reset
    zone: str
    cost: int = 1
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)

    def dated(self, wall: int) -> QuotaCharge:
        """This charge as it is asked for at wall microseconds ``wall``."""
        return replace(self, bounds=quota.bounds(self.reset, self.zone, wall))


@dataclass(frozen=True, slots=True)
class LeaseCharge:
    """A lease on one of ``most`` calls in flight, held under the name that the ask gives."""

    bucket: str
    limit: str
    most: int
    cost: int = 1


AnyCharge = Charge | WindowCharge | QuotaCharge | LeaseCharge


@_value
class Reservation:
    """A waiting task's hold on one bucket.

    Attributes:
        slot: the instant it waits for.
        paid: the slot is charged to the bucket, and good until its grace is over. Otherwise,
            and after that, the task merely has had its turn in the line: it may be charged
            whenever there is room, ahead of those who came later.
    """

    bucket: str
    slot: int
    paid: bool


@dataclass(frozen=True, slots=True)
class ClaimAsk:
    """The wish to mark (task id, attempt, message) as begun, together with the admission.

    Attributes:
        task_id, attempt, message: what is claimed. Another message under the same task id is
            another execution; a copy of the message is not.
        token: names this delivery of it; the same token may ask again.
        lease: how long the claim counts as alive without a renewal.
        keep: how long the mark of a finished execution is kept.
    """

    task_id: str
    attempt: int
    message: str
    token: str
    lease: int
    keep: int


@dataclass(frozen=True, slots=True)
class LaneKey:
    """Where a task that has to wait long would stand in the upstream's parking lot.

    Attributes:
        group: the lanes that are released with the same limits, from the same queue.
        name: the lane.
    """

    group: str
    name: str


@_value
class Ask:
    """One admission: may this call be made now?

    Attributes:
        reserved: what this task holds from earlier answers.
        grace: how long after its slot a paid reservation is still good.
        hold: a wait up to this long is charged at once, because the task stays where it is
            and will be there at its slot. A longer one only gets its turn in the line.
        linger: the same for a task whose turn in the line has come: it has waited long enough
            not to be sent away again for a little more.
        give_up_at: refuse instead of making the task wait beyond this instant.
        max_wait: with ``give_up_at`` unknown (the first admission), the same bound
            counted from now.
        holder: names this delivery in concurrency limits.
        lease: how long a lease in one is kept without a renewal.
        version: of the limits in force from which the charges were made.
        not_before: no earlier than this instant, because one of its keys is paused.
        breaker: the upstream's breaker, when it has one.
        adaptive: how the upstream's rate adapts, when it does.
        successes: calls that this process has seen succeed since it last asked.
        lane: where it would be parked. It then takes no turn in a line, and the answer is
            :class:`Park` while others wait there already. Of no effect for who holds something.
        late: the body of a call came too late for its slot. So long after the slot its paid
            reservations are good nevertheless: the call was charged and not made. Where there is
            room now, it is charged now, as if it had never been charged.
        whole: at a wait within ``hold`` every limit is charged at the slot, not only the binding
            one: nobody will ask again. For waits that are short beside every limit's own.
    """

    upstream: str
    charges: tuple[AnyCharge, ...]
    grace: int
    hold: int
    linger: int
    max_wait: int
    give_up_at: int | None = None
    reserved: tuple[Reservation, ...] = ()
    claim: ClaimAsk | None = None
    holder: str = ""
    lease: int = 0
    version: int = 0
    not_before: int = 0
    breaker: BreakerPolicy | None = None
    adaptive: AdaptivePolicy | None = None
    successes: int = 0
    lane: LaneKey | None = None
    whole: bool = False
    late: int = 0


@_value
class Admit:
    """The call may be made now; every limit is charged.

    Attributes:
        now: the store's time of the decision. The admission is good until ``slot`` plus
            the grace.
        slot: the earliest instant it was charged for, ``now`` when nothing was waited for.
        probe: it probes an upstream whose breaker is half-open; its outcome must be told.
    """

    now: int
    slot: int
    probe: bool = False


CLAIM = "claim"
"""``Wait.limit`` of a delivery that meets another one of its message, which is running."""


@_value
class Wait:
    """The call may be made at ``until``, not before.

    Attributes:
        limit: the binding limit's name, ``"pause"`` for an upstream paused without limits,
            ``"breaker"`` for one whose breaker is open, ``"claim"`` for another delivery of this
            task that is still running.
        reserved: what the task holds from now on.
        charged: the slot is charged: be there at ``until``. Otherwise come back then, and
            be charged when there is room.
        paused: the upstream itself is paused.
        woken: ``until`` is the latest instant; it may go earlier, and the store will say so.
        full: the call's one bucket is full at ``until``: that is its first instant with room.
    """

    now: int
    until: int
    limit: str
    reserved: tuple[Reservation, ...] = ()
    charged: bool = False
    paused: bool = False
    woken: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The earliest slot, ``until``, is beyond the task's patience. Nothing was charged.

    Attributes:
        paused: the upstream is paused, or its breaker is open, which may end early.
    """

    now: int
    until: int
    limit: str
    paused: bool = False


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The message has been run to its end elsewhere: this delivery is dropped."""

    now: int


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """An execution of this message began and its worker died: whether the call was made is not
    known. No delivery of the message is admitted from now on."""

    now: int


@dataclass(frozen=True, slots=True)
class Stale:
    """The limits were changed meanwhile: the question is made anew. Nothing was charged."""

    now: int


@_value
class Park:
    """The call goes behind those in the parking lot that wait for the same. Nothing was charged."""

    now: int


Answer = Admit | Wait | Refuse | AlreadyDone | OutcomeUnknown | Stale | Park
