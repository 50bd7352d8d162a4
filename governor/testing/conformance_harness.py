"""The common parts of a limiter store's conformance suites."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from governor.clock import SECOND
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.breaker import BreakerPolicy
from governor.policy.decision import (
    AnyCharge,
    Ask,
    Charge,
    ClaimAsk,
    QuotaCharge,
    Reservation,
)
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import LimiterStore

MS = 1_000
GRACE = 50 * MS
BREAKER = BreakerPolicy(failures=2, of=4, open_for=10 * SECOND, ramp=2, probe=5 * SECOND)
RATES = AdaptivePolicy(floor=256, cut=512, step=256)
TEN_PER_SECOND = Charge("s", "10/s", interval=100 * MS, capacity=100 * MS)
HUNDRED_PER_MINUTE = Charge("m", "100/min", interval=600 * MS, capacity=600 * MS)


@dataclass
class StoreHarness:
    """A store under test.

    Attributes:
        advance: moves the store's clock forward by exactly this many microseconds.
    """

    store: LimiterStore
    advance: Callable[[int], None]


def ask(
    *charges: AnyCharge,
    upstream: str = "api",
    reserved: tuple[Reservation, ...] = (),
    hold: int = 10 * SECOND,
    give_up_at: int | None = None,
    max_wait: int = 3600 * SECOND,
    claim: ClaimAsk | None = None,
    **more: Any,
) -> Ask:
    """An admission with the suite's defaults."""
    return Ask(
        upstream, charges, GRACE, hold, 10 * SECOND, max_wait, give_up_at, reserved, claim, **more
    )


def claim(
    token: str, *, attempt: int = 0, message: str = "m1", lease: int = 30 * SECOND
) -> ClaimAsk:
    """A claim on the suite's one task."""
    return ClaimAsk("task-1", attempt, message, token, lease, 3600 * SECOND)


def settling(
    token: str, action: ClaimAction, *leases: str, outcome: Outcome = Outcome.IGNORED,
    probe: bool = False,
) -> Settlement:  # fmt: skip
    """The end of an execution of the suite's one task, or a sign of life."""
    return Settlement(
        "api", token, action, claim(token), leases, 30 * SECOND, 0, outcome, probe, BREAKER, RATES
    )


class StoreSuite:
    """A suite that is run on a store of the ``harness`` fixture."""

    def _empty(self, harness: StoreHarness, upstream: str = "api") -> LimiterStore:
        """A store that has known the upstream long enough for every burst to be back."""
        harness.store.settle(Settlement(upstream))
        harness.advance(3600 * SECOND)
        return harness.store

    def _quota(self, harness: StoreHarness) -> QuotaCharge:
        start = harness.store.settle(Settlement("api")).now + 3600 * SECOND
        bounds = tuple(start + days * 86_400 * SECOND for days in (-1, 0, 1, 2))
        return QuotaCharge("q", "5 each day", 5, "day", "UTC", bounds=bounds)  # type: ignore[arg-type]
