"""One settlement: what the end of an execution changes, and what those who wait are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from governor.policy.adaptive import WHOLE, AdaptivePolicy, Share
from governor.policy.admission import DONE, Leases, UpstreamState
from governor.policy.breaker import BreakerPolicy, Closed, HalfOpen, Open
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction, Settlement, claim_after, settle

NOW = 1_000
BREAKER = BreakerPolicy(failures=2, of=4, open_for=50, ramp=2, probe=20)
RATES = AdaptivePolicy(floor=256, cut=512, step=256)
FRESH = UpstreamState(since=0)
HELD = replace(FRESH, meters={"l": Leases({"me": NOW + 5, "other": NOW + 9})})
PROBED = replace(FRESH, breaker=HalfOpen(1, 1, 0, NOW + 20, 1))


def settled(**of: Any) -> Settlement:
    return Settlement("api", "me", **of)


# the settlement, the upstream, what of it is changed, what those who wait are told
TABLE: list[tuple[Settlement, UpstreamState, dict[str, Any], tuple[str, ...]]] = [
    # nothing to leave behind
    (settled(), FRESH, {}, ()),
    # a lease is given back, and one that waits for it is told
    (
        settled(leases=["l"]),
        HELD,
        {"meters": {"l": Leases({"other": NOW + 9})}},
        ("l",),
    ),
    # a lease that ran out before is not there to be given back
    (
        settled(leases=["l"]),
        replace(FRESH, meters={"l": Leases({"other": NOW + 9})}),
        {},
        (),
    ),
    # a sign of life keeps it for longer
    (
        settled(leases=["l"], action=ClaimAction.RENEW, lease=30),
        HELD,
        {"meters": {"l": Leases({"me": NOW + 30, "other": NOW + 9})}},
        (),
    ),
    # and makes none of nothing
    (
        settled(leases=["l"], action=ClaimAction.RENEW, lease=30),
        FRESH,
        {"meters": {"l": Leases()}},
        (),
    ),
    # a failure is remembered; without a policy it is not
    (settled(outcome=Outcome.FAILED, breaker=BREAKER), FRESH, {"breaker": Closed("0001")}, ()),
    (settled(outcome=Outcome.FAILED), FRESH, {}, ()),
    # the second of four opens the breaker
    (
        settled(outcome=Outcome.FAILED, breaker=BREAKER),
        replace(FRESH, breaker=Closed("0001")),
        {"breaker": Open(NOW + 50, 1)},
        (),
    ),
    # a probe that succeeded lets two more go, and those who wait are told
    (
        settled(outcome=Outcome.SUCCESS, breaker=BREAKER, probe=True),
        PROBED,
        {"breaker": HalfOpen(2, 0, 0, NOW + 20, 1)},
        ("breaker",),
    ),
    # one that failed opens it for twice as long: there is nothing to be told
    (
        settled(outcome=Outcome.FAILED, breaker=BREAKER, probe=True),
        PROBED,
        {"breaker": Open(NOW + 100, 2)},
        (),
    ),
    # a call that was no probe says nothing about a breaker that has opened since
    (settled(outcome=Outcome.FAILED, breaker=BREAKER), PROBED, {}, ()),
    # a drop halves the rates; a success does not raise them here
    (
        settled(outcome=Outcome.THROTTLED, adaptive=RATES),
        FRESH,
        {"share": Share(WHOLE // 2, NOW, NOW)},
        (),
    ),
    (settled(outcome=Outcome.SUCCESS, adaptive=RATES), FRESH, {}, ()),
    # a pause begins now, and is only ever made longer
    (settled(pause=10), FRESH, {"pause": NOW + 10}, ()),
    (settled(pause=10), replace(FRESH, pause=NOW + 11), {}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("settlement", "state", "changed", "told"), TABLE)
def test_a_settlement(
    settlement: Settlement, state: UpstreamState, changed: dict[str, Any], told: tuple[str, ...]
) -> None:
    """The upstream afterwards, and the news of it."""
    assert settle(state, settlement, NOW) == (replace(state, **changed), told)


# what is done with a claim, its value afterwards
CLAIMS = [
    # the execution has run to its end: no copy of its message runs again
    (ClaimAction.FINISH, DONE),
    # the call did not happen: it may begin again
    (ClaimAction.RELEASE, ""),
    # it is alive, and its holder is remembered
    (ClaimAction.RENEW, f"me|{NOW + 30}"),
]


@pytest.mark.parametrize(("action", "value"), CLAIMS)
def test_a_claim_after_its_holder_has_settled(action: ClaimAction, value: str) -> None:
    """A claim is finished, given back or renewed."""
    assert claim_after(settled(action=action, lease=30), NOW) == value
