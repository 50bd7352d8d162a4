"""One settlement: what the end of an execution, or a sign of its life, changes.

``stores/redis/lua/settle.lua`` repeats this; the conformance suite and a property test run both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from governor.policy import breaker
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.admission import DONE, Leases, Meter, UpstreamState
from governor.policy.breaker import BreakerPolicy, BreakerState
from governor.policy.decision import ClaimAsk
from governor.policy.outcome import Outcome


class ClaimAction(StrEnum):
    """The fate of what the settled execution holds: its claim and its leases."""

    FINISH = "finish"
    RELEASE = "release"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one execution, or a sign of its life. Durations are microseconds.

    Attributes:
        holder: names the delivery in its claim and its leases.
        action: what becomes of them. A lease is given back unless it is renewed.
        claim: only touched while ``holder`` holds it.
        leases: buckets of the concurrency limits in which it holds a lease.
        lease: how long what is renewed counts as alive from now.
        pause: from now on nobody shall call the upstream for so long. A pause is only ever made
            longer.
        outcome: what the call said about the upstream.
        probe: it was let through as a probe.
        breaker, adaptive: the upstream's policies, when it has them.
    """

    upstream: str
    holder: str = ""
    action: ClaimAction = ClaimAction.FINISH
    claim: ClaimAsk | None = None
    leases: Sequence[str] = ()
    lease: int = 0
    pause: int = 0
    outcome: Outcome = Outcome.IGNORED
    probe: bool = False
    breaker: BreakerPolicy | None = None
    adaptive: AdaptivePolicy | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The store's answer to a settlement. Instants are microseconds on its clock.

    Attributes:
        now: its time.
        pause: until when the upstream is paused; 0: it never was.
        since: when the upstream became known to it.
        breaker: how the upstream's breaker stands.
        lost: what was to be renewed is not the holder's: its lease has run out.
    """

    now: int
    pause: int
    since: int
    breaker: BreakerState = "closed"
    lost: bool = False


def claim_after(settlement: Settlement, now: int) -> str:
    """The value of a claim whose holder has settled; empty when it is given back."""
    match settlement.action:
        case ClaimAction.FINISH:
            return DONE
        case ClaimAction.RELEASE:
            return ""
        case ClaimAction.RENEW:
            return f"{settlement.holder}|{now + settlement.lease}"


def settle(
    state: UpstreamState, settlement: Settlement, now: int
) -> tuple[UpstreamState, tuple[str, ...]]:
    """Settle everything but the claim.

    Returns:
        the upstream's state afterwards, and what those who wait are told: the buckets of the
        concurrency limits in which a lease came free, and ``"breaker"`` when a probe may go.
    """
    news = []
    meters = dict(state.meters)
    for bucket in settlement.leases:
        if _gives_back(meters.get(bucket), settlement):
            news.append(bucket)
        meters[bucket] = _leases_after(meters.get(bucket), settlement, now)
    circuit, share, pause = state.breaker, state.share, state.pause
    if settlement.breaker is not None:
        circuit = breaker.settled(
            circuit, settlement.breaker, now, settlement.outcome, probe=settlement.probe
        )
        half = isinstance(state.breaker, breaker.HalfOpen) and settlement.probe
        if half and not isinstance(circuit, breaker.Open):
            news.append("breaker")
    if settlement.adaptive is not None and settlement.outcome.dropped:
        share = share.dropped(settlement.adaptive, now)
    if settlement.pause > 0:
        pause = max(pause, now + settlement.pause)
    after = replace(state, meters=meters, breaker=circuit, share=share, pause=pause)
    return after, tuple(news)


def holds_leases(state: UpstreamState, settlement: Settlement) -> bool:
    """Tell whether the holder has every lease that is settled."""
    return all(_holds(state.meters.get(bucket), settlement) for bucket in settlement.leases)


def _holds(meter: Meter | None, settlement: Settlement) -> bool:
    return isinstance(meter, Leases) and settlement.holder in meter.holders


def _gives_back(meter: Meter | None, settlement: Settlement) -> bool:
    return _holds(meter, settlement) and settlement.action is not ClaimAction.RENEW


def _leases_after(meter: Meter | None, settlement: Settlement, now: int) -> Leases:
    holders = dict(meter.holders) if isinstance(meter, Leases) else {}
    if settlement.action is not ClaimAction.RENEW:
        holders.pop(settlement.holder, None)
    elif settlement.holder in holders:
        holders[settlement.holder] = now + settlement.lease
    return Leases(holders)
