"""The conformance suite of the limiter store port.

A store's own test is a subclass with one fixture::

    class TestMyStore(LimiterStoreConformance):
        @pytest.fixture
        def harness(self):
            return StoreHarness(MyStore(...), advance=clock.advance)
"""

from __future__ import annotations

from governor.testing.conformance_claims import ClaimConformance
from governor.testing.conformance_harness import StoreHarness
from governor.testing.conformance_rates import RateConformance
from governor.testing.conformance_upstream import UpstreamConformance
from governor.testing.conformance_windows import WindowConformance

__all__ = ["LimiterStoreConformance", "StoreHarness"]


class LimiterStoreConformance(
    RateConformance, ClaimConformance, WindowConformance, UpstreamConformance
):
    """The contract of a limiter store. Subclass it and provide the ``harness`` fixture."""
