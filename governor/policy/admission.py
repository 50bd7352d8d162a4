"""One admission over all limits of an upstream: the specification.

``stores/redis/lua/admit.lua`` decides the same, with a short way for leaky buckets alone; a
property test drives both with the same arrivals and demands the same answers.

Every limit keeps two things. Its meter (a bucket's TAT, a window's log, a quota's count) holds
every call that is made or is sure to be made at its slot. Its line is the instant up to which
slots are promised to tasks that wait elsewhere; a promise charges nothing, so a task that comes
back late, or never, costs no capacity, and a store that forgot its promises still keeps the
limit. A concurrency limit has no slots: its leases are held by name, and who waits is woken.

Order: the limits' version, the claim, the pause and the breaker, every limit's verdict, and only
then anything is written. If all conform, all are charged. If not, the **binding limit** (the one
whose slot is furthest away) decides how to wait:

- not longer than ``hold``, or than ``linger`` once its turn in that line has come: the slot is
  charged now. So are the limits in which the task has
  had its turn already; the others are settled at the slot. Charging every limit at the
  common slot would keep capacity idle that unrelated calls of the same upstream could use.
- longer: the task gets the next turn in the binding limit's line. One that can be parked takes
  none: its lane in the parking lot is its line, and it stands behind whoever waits there already.

A call whose body came too late for its slot (``late``) was charged and not made. It keeps what it
paid for: no bucket is charged twice for it, however often it asks, unless there is room to spare.
Its bucket is not given back anything either: slots that others were promised meanwhile stay where
they are, and two calls would be made at one of them.

Of a wait the answer says whether its one bucket is full at the slot (``full``). Between such a
slot and a later instant the rate alone admits calls, so one that is late for it by less than the
burst lasts takes what the burst would have, and no window holds more calls.

A task that is released from the parking lot a moment ahead of its slot (``whole``) is charged in
every limit at that slot: nobody asks for it again.

Whoever comes new stands behind the line, unless there is room at this very moment: that is
room which nobody in the line has come to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from governor.policy import adaptive, breaker, concurrency, gcra, quota, window
from governor.policy.decision import (
    CLAIM,
    Admit,
    AlreadyDone,
    Answer,
    AnyCharge,
    Ask,
    Charge,
    LeaseCharge,
    OutcomeUnknown,
    Park,
    QuotaCharge,
    Refuse,
    Reservation,
    Stale,
    Wait,
    WindowCharge,
)

DONE = "d"
"""A claim's value once its execution has finished."""

BURIED = "x"
"""A claim's value once its execution counts as dead: it never begins again, and is not renewed."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One leaky bucket's state: its TAT, and the end of its line (0: it is empty)."""

    tat: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Leases:
    """Holders of a concurrency limit's leases, and until when they hold them."""

    holders: Mapping[str, int] = field(default_factory=dict)


Meter = Bucket | window.Log | quota.Period | Leases


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """An upstream as the store knows it.

    Attributes:
        since: when the store first saw the upstream. After a loss of state this is recent:
            every bucket then starts full, as if its whole burst had just been used.
        pause: no call before this instant; 0 when not paused.
        version: of the limits in force.
        breaker: its breaker.
        share: of its declared rates that is in force.
        meters: those that are not idle, by bucket.
        claim: the value of the asked claim, ``None`` when there is none: ``"d"``,
            ``"x"`` or ``"token|alive_until"``.
        queued: whether others wait in the asked lane, or wait to be released in its group.
    """

    since: int
    pause: int = 0
    version: int = 0
    breaker: breaker.Breaker = field(default_factory=breaker.Closed)
    share: adaptive.Share = field(default_factory=adaptive.Share)
    meters: Mapping[str, Meter] = field(default_factory=dict)
    claim: str | None = None
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Effects:
    """Changes to write; ``None`` leaves a thing as it is, and an empty claim deletes it."""

    meters: Mapping[str, Meter] = field(default_factory=dict)
    claim: str | None = None
    breaker: breaker.Breaker | None = None
    share: adaptive.Share | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """One limit's: the instant at which it allows the call, and what the task holds in it."""

    charge: AnyCharge
    meter: Meter
    interval: int
    at: int
    paid: bool = False
    lined: bool = False
    turn: bool = False

    def charged(self, at: int, now: int) -> Meter:
        """The meter after the call was charged at ``at``."""
        meter, charge = self.meter, self.charge
        if isinstance(meter, Bucket):
            line = meter.line if meter.line > now else 0
            return Bucket(gcra.pour(meter.tat, at, self.interval), line)
        if isinstance(meter, window.Log) and isinstance(charge, WindowCharge):
            return window.push(meter, at, charge.cost, window.Shape.of(charge.most))
        if isinstance(meter, quota.Period) and isinstance(charge, QuotaCharge):
            return quota.push(meter, charge.bounds, at, now, charge.cost)
        raise TypeError(charge)

    def fits(self, at: int, now: int, since: int) -> int:
        """Return the first instant from ``at`` on at which a quota has room, if it is not paid; the
        other kinds have room from their own instant on."""
        charge, meter = self.charge, self.meter
        if self.paid or not isinstance(charge, QuotaCharge) or not isinstance(meter, quota.Period):
            return at
        return quota.earliest(meter, charge.bounds, at, now, charge.cost, charge.most, since)

    def fills(self, at: int) -> bool:
        """Tell whether ``at`` is the first instant at which its bucket has room for the call: not
        one that is held already, or the end of a line."""
        if self.paid or self.lined or not isinstance(self.charge, Charge):
            return False
        assert isinstance(self.meter, Bucket)
        return at == self.meter.tat + self.interval - max(self.charge.capacity, self.interval)

    def stood_in_line(self, until: int) -> Meter:
        """The meter after the slot ``until`` was promised."""
        meter, charge = self.meter, self.charge
        if isinstance(meter, Bucket):
            return replace(meter, line=until + self.interval)
        if isinstance(meter, window.Log) and isinstance(charge, WindowCharge):
            shape = window.Shape.of(charge.most)
            return replace(meter, line=until + window.apart(charge.cost, shape, charge.span))
        if isinstance(meter, quota.Period):
            return replace(meter, line=until + quota.LINE)
        raise TypeError(charge)


def decide(  # noqa: PLR0912, PLR0915 - one table, in the order in which the script decides
    ask: Ask, state: UpstreamState, now: int
) -> tuple[Answer, Effects]:
    """Answer ``ask`` at store time ``now``; nothing is changed here, the effects say what to."""
    if state.version != ask.version:
        return Stale(now), Effects()
    circuit = state.breaker
    share = state.share
    if ask.successes and ask.breaker and isinstance(circuit, breaker.Closed):
        circuit = circuit.succeeded(ask.breaker, ask.successes)
    if ask.successes and ask.adaptive:
        share = share.grown(ask.adaptive, now)

    def effects(**written: object) -> Effects:
        return Effects(
            breaker=circuit if circuit != state.breaker else None,
            share=share if share != state.share else None,
            **written,  # type: ignore[arg-type]
        )

    ours = False
    if ask.claim is not None and state.claim is not None:
        if state.claim == DONE:
            return AlreadyDone(now), effects()
        if state.claim == BURIED:
            return OutcomeUnknown(now), effects()
        token, _, alive_until = state.claim.rpartition("|")
        ours = token == ask.claim.token
        if not ours:
            if int(alive_until) > now:
                return Wait(now, int(alive_until), CLAIM, ask.reserved), effects()
            return OutcomeUnknown(now), effects(claim=BURIED)
    parks = ask.lane is not None and not ask.reserved
    if parks and state.queued:
        return Park(now), effects(claim="" if ours else None)

    start = max(now, state.pause, ask.not_before)
    opens = circuit.opens_at(now) if ask.breaker else now
    broken = opens > start
    start = max(start, opens)
    held = {reservation.bucket: reservation for reservation in ask.reserved}
    verdicts = [
        _judge(charge, held.get(charge.bucket), ask, state, share, start, now)
        for charge in ask.charges
    ]
    until, binding = start, -1
    for index, verdict in enumerate(verdicts):
        # While the breaker is open nobody spends anything: all wait for the probe.
        first = binding < 0 and verdict.at > now and not ask.whole
        if not broken and (verdict.at > until or first):
            until, binding = verdict.at, index
    if until > now and not broken:
        # A slot in a quota's next period is one only while that is not promised away.
        for index, verdict in enumerate(verdicts):
            at = verdict.fits(until, now, state.since)
            if at > until:
                until, binding = at, index

    if until <= now:
        meters: dict[str, Meter] = {}
        for verdict in verdicts:
            if isinstance(verdict.meter, Leases):
                holders = concurrency.taken(verdict.meter.holders, now, ask.holder, now + ask.lease)
                meters[verdict.charge.bucket] = Leases(holders)
            elif not verdict.paid:
                meters[verdict.charge.bucket] = verdict.charged(now, now)
        claim = None
        if ask.claim is not None:
            claim = f"{ask.claim.token}|{now + ask.claim.lease}"
        slots = [held[v.charge.bucket].slot for v in verdicts if v.paid]
        probe = ask.breaker is not None and not isinstance(circuit, breaker.Closed)
        if ask.breaker:
            circuit = circuit.passed(ask.breaker, now)
        return Admit(now, min(slots, default=now), probe), effects(meters=meters, claim=claim)

    released = "" if ours else None
    name = "breaker" if broken else "pause"
    bound = verdicts[binding] if binding >= 0 else None
    if bound is not None:
        name = bound.charge.limit
        if isinstance(bound.charge, Charge) and ask.adaptive:
            share = share.waited()
    give_up_at = now + ask.max_wait if ask.give_up_at is None else ask.give_up_at
    woken = bound is None and isinstance(circuit, breaker.HalfOpen) and broken
    woken = woken or (bound is not None and isinstance(bound.meter, Leases))
    paused = start > now
    if woken and now <= give_up_at < until:
        # A lease is likely to come free before.
        until = give_up_at
    probing = ask.whole and ask.breaker and not isinstance(circuit, breaker.Closed)
    if until > give_up_at or (probing and not woken):
        return Refuse(now, until, name, paused), effects(claim=released)
    if bound is None or isinstance(bound.meter, Leases):
        return (
            Wait(now, until, name, ask.reserved, paused=paused, woken=woken),
            effects(claim=released),
        )

    patience = ask.linger if bound.turn else ask.hold
    charged = bound.paid or until - now <= patience
    meters = {}
    if charged:
        for verdict in verdicts:
            if isinstance(verdict.meter, Leases):
                if ask.whole:
                    holders = concurrency.taken(
                        verdict.meter.holders, now, ask.holder, now + ask.lease
                    )
                    meters[verdict.charge.bucket] = Leases(holders)
            elif not verdict.paid and (ask.whole or verdict is bound or verdict.lined):
                meters[verdict.charge.bucket] = verdict.charged(until, now)
                held[verdict.charge.bucket] = Reservation(verdict.charge.bucket, until, True)
    elif not bound.lined and not parks:
        bucket = bound.charge.bucket
        meters[bucket] = bound.stood_in_line(until)
        held[bucket] = Reservation(bucket, until, False)
    full = charged and not paused and len(verdicts) == 1 and bound.fills(until)
    return (
        Wait(now, until, name, tuple(held.values()), charged, paused, full=full),
        effects(meters=meters, claim=released),
    )


def _judge(  # noqa: PLR0917 - called in one place
    charge: AnyCharge, held: Reservation | None, ask: Ask, state: UpstreamState,
    share: adaptive.Share, start: int, now: int,
) -> _Verdict:  # fmt: skip
    meter = state.meters.get(charge.bucket)
    interval = 0
    if isinstance(charge, LeaseCharge):
        leases = meter if isinstance(meter, Leases) else Leases()
        at = concurrency.earliest(leases.holders, start, now, ask.holder, charge.most)
        return _Verdict(charge, leases, 0, at)
    if isinstance(charge, Charge):
        interval = share.interval(charge.interval) if ask.adaptive else charge.interval
        capacity = max(charge.capacity, interval)
        meter = meter if isinstance(meter, Bucket) else Bucket(state.since + charge.capacity)
        at = gcra.earliest(meter.tat, start, interval, capacity)
    elif isinstance(charge, WindowCharge):
        meter = meter if isinstance(meter, window.Log) else window.Log()
        shape = window.Shape.of(charge.most)
        at = window.earliest(meter, start, charge.cost, shape, charge.span, state.since)
    else:
        meter = meter if isinstance(meter, quota.Period) else quota.Period()
        at = quota.earliest(meter, charge.bounds, start, now, charge.cost, charge.most, state.since)
    good = held is not None and held.paid and now <= held.slot + ask.grace
    if held is not None and held.paid and at > now:
        good = good or now <= held.slot + ask.late
    if held is not None and good and start <= max(held.slot, now):
        return _Verdict(charge, meter, interval, held.slot, paid=True)
    if held is not None:
        # A slot that was paid and missed leaves its holder a turn.
        turn = held.slot <= now + ask.hold
        at = at if held.paid else max(at, held.slot)
        return _Verdict(charge, meter, interval, at, lined=True, turn=turn)
    if at > now:
        at = max(at, meter.line)
    return _Verdict(charge, meter, interval, at)
