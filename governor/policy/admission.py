"""One admission over all limits of an upstream: the specification.

``stores/lua/admit.lua`` repeats this, line for line; a property test drives both with the
same arrivals and demands the same answers.

Order: the claim, the reservation, then every limit's verdict is computed before anything
is written. If all conform, all are charged. If not, **only the binding limit** (the one
whose slot is furthest away) is charged, at its slot; the others are settled when the task
comes back then. Charging them all at the common slot would keep capacity idle that
unrelated calls of the same upstream could use.
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
    OutcomeUnknown,
    Refuse,
    Reservation,
    Wait,
)

DONE = "d"
"""A claim's value once its execution has finished."""


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What the store knows about an upstream.

    Attributes:
        since: when the store first saw the upstream. After a loss of state this is recent:
            every bucket then starts full, as if its whole burst had just been used.
        pause: no call before this instant; 0 when not paused.
        buckets: TAT of each bucket that is not idle.
        claim: the value of the asked claim, ``None`` when there is none: ``"d"``, or
            ``"token|alive_until"``.
    """

    since: int
    pause: int = 0
    buckets: Mapping[str, int] = field(default_factory=dict)
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """What to write: new TATs, and the claim (``""`` deletes it, ``None`` leaves it)."""

    buckets: Mapping[str, int] = field(default_factory=dict)
    claim: str | None = None


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
                return Wait(now, int(alive_until), "claim", None), Effects()
            return OutcomeUnknown(now), Effects()

    paused = state.pause > now
    paid: str | None = None
    held = _held_limit(ask)
    if ask.reserved is not None and held and state.pause <= max(ask.reserved.slot, now):
        slot = ask.reserved.slot
        if now < slot:
            released = "" if ours else None
            return Wait(now, slot, held, ask.reserved, paused), Effects(claim=released)
        if now <= slot + ask.grace:
            paid = ask.reserved.bucket

    start = max(now, state.pause)
    until, binding = start, -1
    tats: list[int] = []
    for index, charge in enumerate(ask.charges):
        tat = state.buckets.get(charge.bucket, state.since + charge.capacity)
        tats.append(tat)
        if charge.bucket == paid:
            continue
        at = gcra.earliest(tat, start, charge.interval, charge.capacity)
        if at > until or (binding < 0 and at > now):
            until, binding = at, index

    if until <= now:
        poured = {
            charge.bucket: gcra.pour(tat, now, charge.interval)
            for charge, tat in zip(ask.charges, tats, strict=True)
            if charge.bucket != paid
        }
        claim = None
        if ask.claim is not None:
            claim = f"{ask.claim.token}|{now + ask.claim.lease}"
        slot = ask.reserved.slot if paid is not None and ask.reserved is not None else now
        return Admit(now, slot), Effects(poured, claim)

    released = "" if ours else None
    name = ask.charges[binding].limit if binding >= 0 else "pause"
    give_up_at = now + ask.max_wait if ask.give_up_at is None else ask.give_up_at
    if until > give_up_at:
        return Refuse(now, until, name), Effects(claim=released)
    if binding < 0:
        return Wait(now, until, "pause", None, paused), Effects(claim=released)
    charge = ask.charges[binding]
    poured = {charge.bucket: gcra.pour(tats[binding], start, charge.interval)}
    reservation = Reservation(charge.bucket, until)
    return Wait(now, until, name, reservation, paused), Effects(poured, released)


def _held_limit(ask: Ask) -> str | None:
    """The limit a slot is held in; none when a new declaration no longer has that bucket."""
    if ask.reserved is None:
        return None
    bucket = ask.reserved.bucket
    return next((charge.limit for charge in ask.charges if charge.bucket == bucket), None)
