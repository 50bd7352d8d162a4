"""Arguments of the scripts, and the meaning of their replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from governor import keys
from governor.policy import adaptive, breaker, quota, window
from governor.policy.adjustment import Adjustment
from governor.policy.admission import Bucket, Leases, Meter, UpstreamState
from governor.policy.breaker import MOST_DOUBLINGS
from governor.policy.decision import (
    CLAIM,
    Admit,
    AlreadyDone,
    Answer,
    AnyCharge,
    Ask,
    Charge,
    ClaimAsk,
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
from governor.policy.outcome import Outcome
from governor.policy.settlement import Settlement

Words = tuple[list[str], list[object]]
"""A script's keys and arguments."""

_HEAD = 9
"""Arguments of ``admit.lua`` that are always there, and first."""

_PAUSED = 10
_PARK = 20


def admission(prefix: str, ask: Ask) -> Words:
    """``admit.lua``'s keys and arguments."""
    names = [keys.state_key(prefix, ask.upstream)]
    way = "whole" if ask.whole else ""
    parks = ask.lane is not None and not ask.reserved
    if parks:
        assert ask.lane is not None
        way = "park"
        names += [
            keys.lot_key(prefix, ask.upstream, f"r:{ask.lane.group}"),
            keys.lot_key(prefix, ask.upstream, f"q:{ask.lane.name}"),
        ]
    limits, fields, leases = _limits(prefix, ask, names)
    claim = ask.claim
    if claim is not None:
        names.append(_claim_key(prefix, ask.upstream, claim))
    plain = len(fields) == len(ask.charges) and not (ask.reserved or claim or ask.not_before)
    patience = -ask.max_wait if ask.give_up_at is None else ask.give_up_at
    policy = ask.breaker
    said: list[object] = []
    if claim or ask.not_before or policy or ask.adaptive or leases or ask.late:
        said = [
            ask.not_before, claim.token if claim else ask.holder,
            claim.lease if claim else ask.lease, claim.keep // 1000 if claim else 0, ask.successes,
            f"{policy.of}|{policy.probe}" if policy else "",
            ask.adaptive.step if ask.adaptive else "", ask.late,
        ]  # fmt: skip
        fields = ["breaker", "adaptive", *fields]
    if parks:
        fields.append("lot")
    begin = _HEAD + len(said) + 1
    arguments = [
        begin + len(limits), ask.version, ask.grace, ask.hold, ask.linger, patience,
        len(ask.charges) if plain else 0, begin, way, *said, *limits, *fields,
    ]  # fmt: skip
    return names, arguments


def _claim_key(prefix: str, upstream: str, claim: ClaimAsk) -> str:
    return keys.claim_key(prefix, upstream, claim.task_id, claim.attempt, claim.message)


def _limits(prefix: str, ask: Ask, names: list[str]) -> tuple[list[object], list[str], bool]:
    """Each limit's arguments, the fields of the leaky buckets that all calls share, and whether one
    is of concurrency. Keys are added to ``names``."""
    held: dict[str, int] = {}
    for r in ask.reserved:
        held[r.bucket] = r.slot if r.paid else -r.slot
    limits: list[object] = []
    fields: list[str] = []
    leases = False
    for charge in ask.charges:
        bucket = charge.bucket
        if isinstance(charge, Charge):
            if keys.is_shared(bucket):
                fields.append(f"b:{bucket}")
                kind = "b"
            else:
                names.append(keys.bucket_key(prefix, ask.upstream, bucket))
                kind = "k"
            limits += (kind, charge.interval, charge.capacity, held.get(bucket, 0))
            continue
        names.append(keys.bucket_key(prefix, ask.upstream, bucket))
        if isinstance(charge, WindowCharge):
            names.append(keys.line_key(prefix, ask.upstream, bucket))
            shape = window.Shape.of(charge.most)
            limits += (
                "w", charge.cost, shape.entries, shape.group, charge.span,
                window.apart(charge.cost, shape, charge.span), held.get(bucket, 0),
            )  # fmt: skip
        elif isinstance(charge, QuotaCharge):
            limits += ("q", charge.cost, charge.most, *charge.bounds, held.get(bucket, 0))
        else:
            limits += ("l", charge.most)
            leases = True
    return limits, fields, leases


def answer(ask: Ask, reply: int | list[int]) -> Answer:
    """Read the reply of ``admit.lua``."""
    if isinstance(reply, int):
        return Admit(reply, reply)
    status, now, at, number, charged = reply
    if status == _PARK:
        return Park(now)
    if status == 2 and not ask.reserved:
        # The most frequent of the others: a new call gets its turn in the line.
        charge = ask.charges[number - 1]
        return Wait(now, at, charge.limit, (Reservation(charge.bucket, at, False),))
    paused = status > _PAUSED
    status %= _PAUSED
    match status:
        case 0:
            return Admit(now, at, number == 1)
        case 1 | 2 | 3:
            reserved = _reserved(ask, status, at, number, abs(charged))
            limit = _limit(ask, number)
            return Wait(now, at, limit, reserved, status == 1, paused, full=charged < 0)
        case 4:
            woken = charged == 1
            return Wait(now, at, _limit(ask, number), ask.reserved, paused=paused, woken=woken)
        case 5:
            return Wait(now, at, CLAIM, ask.reserved)
        case 6:
            return Refuse(now, at, _limit(ask, number), paused)
        case 7:
            return AlreadyDone(now)
        case 8:
            return OutcomeUnknown(now)
        case _:
            return Stale(now)


def _limit(ask: Ask, number: int) -> str:
    if number > 0:
        return ask.charges[number - 1].limit
    return "breaker" if number < 0 else "pause"


def _reserved(ask: Ask, status: int, at: int, number: int, charged: int) -> tuple[Reservation, ...]:
    held = {reservation.bucket: reservation for reservation in ask.reserved}
    for index, charge in enumerate(ask.charges):
        if charged >> index & 1:
            held[charge.bucket] = Reservation(charge.bucket, at, True)
    if status == 2:
        bucket = ask.charges[number - 1].bucket
        held[bucket] = Reservation(bucket, at, False)
    return tuple(held.values())


def settlement(prefix: str, settled: Settlement) -> Words:
    """``settle.lua``'s keys and arguments."""
    upstream, claim = settled.upstream, settled.claim
    names = [keys.state_key(prefix, upstream)]
    if claim is not None:
        names.append(_claim_key(prefix, upstream, claim))
    names += [keys.bucket_key(prefix, upstream, bucket) for bucket in settled.leases]
    policy, rates = settled.breaker, settled.adaptive
    outcome = settled.outcome
    arguments: list[object] = [
        settled.holder, settled.action.value, settled.lease,
        claim.keep // 1000 if claim else 0, settled.pause,
        "" if outcome is Outcome.IGNORED and not settled.probe else outcome.value,
        int(settled.probe),
        f"{policy.failures}|{policy.of}|{policy.open_for}|{policy.ramp}|{MOST_DOUBLINGS}"
        if policy else "",
        f"{rates.floor}|{rates.cut}" if rates else "",
        keys.channel(prefix, upstream), keys.bucket_key(prefix, upstream, ""),
    ]  # fmt: skip
    return names, arguments


def adjustments(prefix: str, upstream: str, wanted: Sequence[Adjustment]) -> Words:
    """``adjust.lua``'s keys and arguments."""
    names = [keys.state_key(prefix, upstream)]
    arguments: list[object] = []
    for each in wanted:
        charge = each.charge
        used = -1 if each.used is None else each.used
        shared = isinstance(charge, Charge) and keys.is_shared(charge.bucket)
        if not shared:
            names.append(keys.bucket_key(prefix, upstream, charge.bucket))
        match charge:
            case Charge():
                field = f"b:{charge.bucket}" if shared else ""
                arguments += (
                    "b" if shared else "k", field, charge.interval, each.more, used,
                    each.tolerance, charge.capacity,
                )  # fmt: skip
            case WindowCharge():
                shape = window.Shape.of(charge.most)
                arguments += (
                    "w", shape.entries, shape.group, charge.span, each.more, used,
                    each.tolerance, each.reset,
                )  # fmt: skip
            case QuotaCharge():
                arguments += ("q", *charge.bounds, each.more, used, each.tolerance)
            case LeaseCharge():
                raise ValueError(charge)
    return names, arguments


def state(
    fields: Mapping[str, str], charges: Sequence[AnyCharge], found: Sequence[Any], now: int
) -> UpstreamState:
    """Read the policy's state out of the upstream's hash and the keys of these charges."""
    meters: dict[str, Meter] = {}
    for charge, value in zip(charges, found, strict=True):
        meter = _meter(charge, fields.get(f"b:{charge.bucket}") if value is None else value)
        if meter is not None:
            meters[charge.bucket] = meter
    return UpstreamState(
        since=min(int(fields.get("since", now)), now),
        pause=int(fields.get("pause", 0)),
        version=int(fields.get("version", 0)),
        breaker=breaker.read(fields.get("breaker", "")),
        share=adaptive.read(fields.get("adaptive", "")),
        meters=meters,
    )


def _meter(charge: AnyCharge, value: Any) -> Meter | None:
    if not value:
        return None
    match charge:
        case Charge():
            tat, _, line = str(value).partition("|")
            return Bucket(int(tat), int(line or 0))
        case WindowCharge():
            times = tuple(int(str(entry).partition("|")[0]) for entry in value)
            return window.Log(times, int(str(value[-1]).partition("|")[2] or 0))
        case QuotaCharge():
            return quota.Period(*map(int, str(value).split("|")))
        case LeaseCharge():
            return Leases(dict(zip(value[::2], map(int, value[1::2]), strict=True)))
