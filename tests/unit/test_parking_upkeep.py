"""What a worker tells the parking lots of the tasks that were released to it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery.worker.state import active_requests

from governor import Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.policy.parking_values import Steering, Ticket
from governor.ports import MessageCopy
from governor.testing.clock import FakeClock
from governor.worker.known_lot import KnownLot
from governor.worker.parked_message import End, ParkedMessage
from governor.worker.parking_upkeep import MOST_LEFT, ParkingUpkeep
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop

LEASE = 30 * SECOND
SOON = SECOND // 20


class World:
    """Two lots, a store that writes down what it is told, and their upkeep.

    Attributes:
        steered: what each lot was told.
        renewed: the entries of each renewal.
        wanted: the lots that were to be asked again.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = SimulatedLoop(self.clock)
        self.steered: list[tuple[str, Steering]] = []
        self.renewed: list[tuple[str, set[str]]] = []
        self.wanted: list[str] = []
        self.away = False
        self.broken = ""
        self.lots = {name: KnownLot(Upstream(name, Limit("1/s"))) for name in ("api", "bank")}
        self.outage = StoreOutage(self.clock, Emitter())
        governor: Any = Mock(clock=self.clock, events=Emitter(), settings=Mock(claim_lease=LEASE))
        governor.store.lots = SimpleNamespace(steer=self._steer, renew=self._renew)
        self.upkeep = ParkingUpkeep(
            governor, self.loop, self.outage, self.lots,
            lambda lot: self.wanted.append(lot.upstream.name),
        )  # fmt: skip

    def release(self, entry: str, upstream: str = "api") -> ParkedMessage:
        """Release a task to the worker, and make a request of it."""
        message = ParkedMessage(
            MessageCopy(b"[]", {}, {}, "", ""), upstream, Ticket(entry, 0, "", b"", 0), 0, None,
            self.upkeep.ended,
        )  # fmt: skip
        self.lots[upstream].out[entry] = Mock(message=message)
        self.upkeep.renew_later()
        return message

    def end(self, message: ParkedMessage, end: End = "left") -> None:
        message.ack() if end == "left" else message.requeue()
        self.loop.run_for(0)

    def _steer(self, upstream: str, steering: Steering) -> None:
        self._answer(upstream)
        self.steered.append((upstream, steering))

    def _renew(self, upstream: str, entries: tuple[str, ...], _: int) -> None:
        self._answer(upstream)
        self.renewed.append((upstream, set(entries)))

    def _answer(self, upstream: str) -> None:
        if self.away:
            raise StoreUnavailable
        if upstream == self.broken:
            raise TypeError


@pytest.fixture
def world() -> Iterator[World]:
    """A worker's upkeep; no request of it stays active."""
    yield World()
    active_requests.clear()


def test_ends_are_told_together(world: World) -> None:
    """Tasks that ended within a twentieth of a second are told in one call, each once."""
    for message in [world.release("t1"), world.release("t2")]:
        world.end(message)
    assert world.steered == []
    world.loop.run_for(SOON)
    assert world.steered == [("api", Steering("left", ("t1", "t2")))]
    world.loop.run_for(SECOND)
    assert len(world.steered) == 1


def test_a_call_tells_a_bounded_number_of_ends(world: World) -> None:
    """More ends than one call may tell are told in several."""
    world.lots["api"].left = [str(number) for number in range(MOST_LEFT + 1)]
    world.upkeep.flush()
    assert [len(steering.entries) for _, steering in world.steered] == [MOST_LEFT, 1]


def test_ends_are_kept_while_the_store_is_away(world: World) -> None:
    """What could not be told stays to be told with the next question of its lot."""
    message = world.release("t1")
    world.away = True
    world.end(message)
    world.loop.run_for(SOON)
    assert world.lots["api"].left == ["t1"]


def test_a_task_that_goes_back_is_asked_for_again(world: World) -> None:
    """A requeued task goes back to its lane at once, and the lot is asked what may go."""
    world.end(world.release("t1"), "back")
    assert world.steered == [("api", Steering("back", ("t1",)))]
    assert world.wanted == ["api"]


def test_the_end_of_what_is_not_out_tells_nothing(world: World) -> None:
    """A task that is in no lot's care any more, such as one that was given back, has no end to
    tell."""
    message = world.release("t1")
    world.lots["api"].out.clear()
    world.end(message)
    world.loop.run_for(SECOND)
    assert world.steered == []


def test_leases_are_renewed_until_the_end(world: World) -> None:
    """Every third of a lease each released task is renewed that has not ended, and that may end
    here."""
    messages = [world.release(entry) for entry in ("t1", "t2", "t3")]
    world.upkeep.abandon(Mock(message=messages[2]))
    world.loop.run_for(LEASE // 3)
    assert world.renewed == [("api", {"t1", "t2"})]
    world.end(messages[0])
    world.loop.run_for(LEASE // 3)
    assert world.renewed[1:] == [("api", {"t2"})]
    world.end(messages[1])
    world.loop.run_for(LEASE)
    assert len(world.renewed) == 2


@pytest.mark.parametrize("broken", ["api", "bank"])
def test_a_lot_that_fails_stops_no_other(world: World, broken: str) -> None:
    """An unexpected error of one lot's keeps no other lot from being renewed, again and again, nor
    from being told its ends."""
    other = "bank" if broken == "api" else "api"
    world.broken = broken
    messages = [world.release("t1", broken), world.release("t2", other)]
    world.loop.run_for(2 * LEASE // 3)
    assert world.renewed == [(other, {"t2"})] * 2
    for message in messages:
        world.end(message)
    world.loop.run_for(SOON)
    assert world.steered == [(other, Steering("left", ("t2",)))]


def test_what_has_not_begun_goes_back(world: World) -> None:
    """When the connection is lost, tasks that do not run go to the front of their lanes, the first
    one foremost; acknowledging them means nothing then. Those that run are renewed on."""
    messages = [world.release(entry) for entry in ("t1", "t2", "t3")]
    active_requests.add(world.lots["api"].out["t2"])
    world.upkeep.give_back()
    assert world.steered == [("api", Steering("back", ("t3", "t1")))]
    for message in (messages[0], messages[2]):
        world.end(message)
    world.loop.run_for(LEASE // 3)
    assert len(world.steered) == 1
    assert world.renewed == [("api", {"t2"})]
