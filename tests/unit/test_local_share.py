"""A worker's share of the limits while it cannot ask the others."""

from __future__ import annotations

import pytest

from governor.policy.decision import AnyCharge, Charge, LeaseCharge, QuotaCharge, WindowCharge
from governor.policy.local_share import share_of

# the charge, the share of it that each of four workers has
SHARES: list[tuple[AnyCharge, AnyCharge]] = [
    # a bucket leaks four times as slowly; its burst is as many calls as before times a quarter
    (Charge("s", "s", 10, 400), Charge("s", "s", 40, 400)),
    # a burst of one stays one
    (Charge("s", "s", 10, 10), Charge("s", "s", 40, 40)),
    # a quarter of a window, rounded down
    (WindowCharge("w", "w", 11, 5), WindowCharge("w", "w", 2, 5)),
    # at least one call, whatever it costs
    (WindowCharge("w", "w", 3, 5), WindowCharge("w", "w", 1, 5)),
    (WindowCharge("w", "w", 11, 5, 3), WindowCharge("w", "w", 3, 5, 3)),
    (QuotaCharge("q", "q", 8, "day", "UTC"), QuotaCharge("q", "q", 2, "day", "UTC")),
    (LeaseCharge("l", "l", 9), LeaseCharge("l", "l", 2)),
]


@pytest.mark.parametrize(("charge", "share"), SHARES)
def test_a_quarter(charge: AnyCharge, share: AnyCharge) -> None:
    """Four workers together take no more than the limit, where each may make one call at all."""
    assert share_of([charge], 4) == (share,)


def test_a_worker_alone_has_everything() -> None:
    """The share of one worker is the limit."""
    charges = tuple(charge for charge, _ in SHARES)
    assert share_of(charges, 1) == charges
