"""One admission over all limits of an upstream: the specification.

``stores/lua/admit.lua`` repeats this, line for line; a property test drives both with the
same arrivals and demands the same answers.

A bucket is two integers. Its TAT holds every call that is made or is sure to be made at its
slot: a leaky bucket by GCRA. Its line is the instant up to which slots are promised to tasks
that wait elsewhere; a promise charges nothing, so a task that comes back late, or never, costs
no capacity, and a store that forgot its promises still keeps the limit.

Order: the claim, then every limit's verdict, and only then anything is written. If all
conform, all are charged. If not, the **binding limit** (the one whose slot is furthest away)
decides how to wait:

- not longer than ``hold``, or than ``linger`` once its turn in that line has come: the slot is
  charged now. So are the limits in which the task has
  had its turn already; the others are settled at the slot. Charging every limit at the
  common slot would keep capacity idle that unrelated calls of the same upstream could use.
- longer: the task gets the next place in the binding limit's line.

Whoever comes new stands behind the line, unless there is room at this very moment: that is
room which nobody in the line has come to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from governor.policy import gcra
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    Answer,
    Ask,
    Charge,
    OutcomeUnknown,
    Refuse,
    Reservation,
    Wait,
)

DONE = "d"
"""A claim's value once its execution has finished."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket's state: its TAT, and the end of its line (0: nobody waits in it)."""

    tat: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What the store knows about an upstream.

    Attributes:
        since: when the store first saw the upstream. After a loss of state this is recent:
            every bucket then starts full, as if its whole burst had just been used.
        pause: no call before this instant; 0 when not paused.
        buckets: those that are not idle.
        claim: the value of the asked claim, ``None`` when there is none: ``"d"``, or
            ``"token|alive_until"``.
    """

    since: int
    pause: int = 0
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """What to write: buckets, and the claim (``""`` deletes it, ``None`` leaves it)."""

    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """One limit's: the instant at which it allows the call, and what the task holds in it."""

    charge: Charge
    bucket: Bucket
    at: int
    paid: bool
    lined: bool
    turn: bool

    def poured(self, at: int, now: int) -> Bucket:
        line = self.bucket.line if self.bucket.line > now else 0
        return Bucket(gcra.pour(self.bucket.tat, at, self.charge.interval), line)


def decide(  # noqa: PLR0912 - one table, in the order in which the script decides
    ask: Ask, state: UpstreamState, now: int
) -> tuple[Answer, Effects]:
    """Answer ``ask`` at store time ``now``; nothing is changed here, the effects say what to."""
    ours = False
    if ask.claim is not None and state.claim is not None:
        if state.claim == DONE:
            return AlreadyDone(now), Effects()
        token, _, alive_until = state.claim.rpartition("|")
        ours = token == ask.claim.token
        if not ours:
            if int(alive_until) > now:
                return Wait(now, int(alive_until), "claim", ask.reserved), Effects()
            return OutcomeUnknown(now), Effects()

    held = {reservation.bucket: reservation for reservation in ask.reserved}
    verdicts = [_judge(charge, held.get(charge.bucket), ask, state, now) for charge in ask.charges]
    until, binding = max(now, state.pause), -1
    for index, verdict in enumerate(verdicts):
        if verdict.at > until or (binding < 0 and verdict.at > now):
            until, binding = verdict.at, index

    if until <= now:
        buckets = {v.charge.bucket: v.poured(now, now) for v in verdicts if not v.paid}
        claim = None
        if ask.claim is not None:
            claim = f"{ask.claim.token}|{now + ask.claim.lease}"
        slots = [held[v.charge.bucket].slot for v in verdicts if v.paid]
        return Admit(now, min(slots, default=now)), Effects(buckets, claim)

    released = "" if ours else None
    name = ask.charges[binding].limit if binding >= 0 else "pause"
    give_up_at = now + ask.max_wait if ask.give_up_at is None else ask.give_up_at
    if until > give_up_at:
        return Refuse(now, until, name), Effects(claim=released)
    paused = state.pause > now
    if binding < 0:
        return Wait(now, until, "pause", ask.reserved, paused=paused), Effects(claim=released)

    bound = verdicts[binding]
    patience = ask.linger if bound.turn else ask.hold
    charged = bound.paid or until - now <= patience
    buckets = {}
    if charged:
        for verdict in verdicts:
            if not verdict.paid and (verdict is bound or verdict.lined):
                buckets[verdict.charge.bucket] = verdict.poured(until, now)
                held[verdict.charge.bucket] = Reservation(verdict.charge.bucket, until, True)
    elif not bound.lined:
        bucket = bound.charge.bucket
        buckets[bucket] = Bucket(bound.bucket.tat, until + bound.charge.interval)
        held[bucket] = Reservation(bucket, until, False)
    return Wait(now, until, name, tuple(held.values()), charged, paused), Effects(buckets, released)


def _judge(
    charge: Charge, held: Reservation | None, ask: Ask, state: UpstreamState, now: int
) -> _Verdict:
    bucket = state.buckets.get(charge.bucket, Bucket(state.since + charge.capacity))
    if (
        held is not None
        and held.paid
        and now <= held.slot + ask.grace
        and state.pause <= max(held.slot, now)
    ):
        return _Verdict(charge, bucket, held.slot, paid=True, lined=False, turn=False)
    start = max(now, state.pause)
    at = gcra.earliest(bucket.tat, start, charge.interval, charge.capacity)
    if held is not None:
        # A slot that was paid and missed leaves its holder a turn.
        turn = held.slot <= now + ask.hold
        at = at if held.paid else max(at, held.slot)
        return _Verdict(charge, bucket, at, paid=False, lined=True, turn=turn)
    if at > now:
        at = max(at, bucket.line)
    return _Verdict(charge, bucket, at, paid=False, lined=False, turn=False)
