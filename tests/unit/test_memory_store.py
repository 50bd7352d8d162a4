"""The in-memory store keeps the limiter store's contract."""

from __future__ import annotations

import pytest

from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.testing.conformance import LimiterStoreConformance, StoreHarness
from governor.testing.conformance_parking import ParkingLotConformance


class TestMemoryStore(LimiterStoreConformance):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        clock = FakeClock()
        return StoreHarness(MemoryStore(clock.wall), advance=clock.advance)


class TestMemoryLots(ParkingLotConformance):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        clock = FakeClock()
        return StoreHarness(MemoryStore(clock.wall), advance=clock.advance)
