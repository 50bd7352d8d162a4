"""The search for parked tasks that were revoked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from governor import Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.policy.parking_values import Steering, Ticket
from governor.testing.clock import FakeClock
from governor.worker import parking_revocations
from governor.worker.known_lot import KnownLot
from governor.worker.parking_revocations import ParkingRevocations
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop


class World:
    """Two lots in which tasks wait, and a worker's search of them.

    Attributes:
        revoked: task ids that the worker knows as revoked.
        sought: what was sought in which lot.
        errors: what a lot raises.
        delivered: what was handed to Celery, out of which lot.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.revoked: set[str] = set()
        monkeypatch.setattr(parking_revocations, "revoked_tasks", self.revoked)
        self.sought: list[tuple[str, set[str]]] = []
        self.errors: dict[str, Exception] = {}
        self.delivered: list[tuple[str, Ticket]] = []
        self.lots = {name: KnownLot(Upstream(name, Limit("1/s")), 1) for name in ("api", "bank")}
        clock = FakeClock(0)
        self.loop = SimulatedLoop(clock)
        lots = SimpleNamespace(steer=self._steer)
        governor: Any = Mock(clock=clock, store=Mock(lots=lots))
        self.search = ParkingRevocations(
            governor, self.loop, StoreOutage(clock, Emitter()), self.lots,
            lambda upstream, ticket, **_: self.delivered.append((upstream, ticket)),
        )  # fmt: skip
        self.search.look_later()

    def _steer(self, upstream: str, steering: Steering) -> list[bytes]:
        if upstream in self.errors:
            raise self.errors[upstream]
        assert steering.what == "revoke"
        self.sought.append((upstream, set(steering.entries)))
        return [upstream.encode()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A worker that looks each second."""
    return World(monkeypatch)


def test_a_revoked_task_is_sought_once_in_each_lot(world: World) -> None:
    """Each lot is asked once about a revocation, and not at all without one. What is taken out is
    delivered as a task that shall not run."""
    world.loop.run_for(3 * SECOND)
    assert world.sought == []
    world.revoked.add("t1")
    world.loop.run_for(3 * SECOND)
    assert world.sought == [("api", {"t1"}), ("bank", {"t1"})]
    assert world.delivered == [
        (name, Ticket("", 0, "", name.encode(), 0, late=True)) for name in ("api", "bank")
    ]
    world.revoked.add("t2")
    world.loop.run_for(3 * SECOND)
    assert world.sought[2:] == [("api", {"t2"}), ("bank", {"t2"})]


@pytest.mark.parametrize("broken", ["api", "bank"])
def test_a_lot_that_fails_stops_no_other(world: World, broken: str) -> None:
    """While one lot fails the other is searched, and both are when it works again."""
    other = "bank" if broken == "api" else "api"
    world.errors[broken] = TypeError()
    world.revoked.add("t1")
    world.loop.run_for(SECOND)
    assert world.sought == [(other, {"t1"})]
    world.errors.clear()
    world.loop.run_for(SECOND)
    assert (broken, {"t1"}) in world.sought


def test_a_store_that_is_away_is_asked_again(world: World) -> None:
    """A revocation that could not be told is told when the store answers again."""
    world.errors = {"api": StoreUnavailable(), "bank": StoreUnavailable()}
    world.revoked.add("t1")
    world.loop.run_for(SECOND)
    world.errors.clear()
    world.loop.run_for(3 * SECOND)
    assert [upstream for upstream, _ in world.sought][:2] == ["api", "bank"]


def test_no_lot_is_searched_in_which_nothing_waits(world: World) -> None:
    """A worker whose lots are empty stops looking, until a task is parked."""
    for lot in world.lots.values():
        lot.waiting = 0
    world.revoked.add("t1")
    world.loop.run_for(3 * SECOND)
    assert world.sought == []
    world.lots["api"].waiting = 1
    world.search.look_later()
    world.loop.run_for(SECOND)
    assert world.sought == [("api", {"t1"})]


def test_a_reconnection_adds_no_second_search(world: World) -> None:
    """After a stop and a new start one timer looks, not two."""
    world.search.stop()
    world.search.look_later()
    world.loop.run_for(SECOND)
    assert len(world.loop._timed) == 1
