"""Parked tasks that no question of this worker releases: which it takes out, and when it looks."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from governor import Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.policy.parking_lot import MOST_LOOKED_AT
from governor.policy.parking_values import Group, Overdue, ReleaseAsk, Ticket
from governor.testing.clock import FakeClock
from governor.worker.adoption import LONGEST, SHORTEST, Adoption
from governor.worker.store_outage import StoreOutage
from tests.unit.simulated_loop import SimulatedLoop

MINE, OTHERS = "celery", "slow"


def ticket(name: str, *, late: bool = False) -> Ticket:
    return Ticket(name, 0, "", b"", 0, late=late)


class World:
    """A worker that consumes one queue and releases the group ``known``.

    Attributes:
        groups: those of the lot, and the queue that each was parked out of.
        released, overdue: what the lot answers.
        looked: the instants at which the lot was looked into.
        asked: the questions for tasks to adopt, and for those whose time is over.
        delivered: what was handed to Celery.
    """

    def __init__(self) -> None:
        self.clock = FakeClock(0)
        self.loop = SimulatedLoop(self.clock)
        self.groups: dict[str, str] = {}
        self.released: tuple[Ticket, ...] = ()
        self.overdue = Overdue(0, (), 0, False, 0)
        self.looked: list[int] = []
        self.asked: list[Any] = []
        self.delivered: list[tuple[str, bool, str]] = []
        self.error: Exception | None = None
        self.consumed = (MINE,)
        self.waiting = [Upstream("api", Limit("1/s"), max_wait=3600.0)]
        lots = SimpleNamespace(groups=self._groups, release=self._release, overdue=self._overdue)
        governor: Any = Mock(clock=self.clock, store=Mock(lots=lots))
        queues: Any = SimpleNamespace(
            all=lambda: self.consumed, releases=lambda queue: queue in self.consumed
        )
        self.adoption = Adoption(
            governor, self.loop, StoreOutage(self.clock, Emitter()), queues, lambda: self.waiting,
            lambda _: [Group("known", ())], lambda: "w.1", self._deliver,
        )  # fmt: skip
        self.adoption.begin()

    def _groups(self, _: str) -> dict[str, str]:
        self.looked.append(self.clock.now)
        if self.error is not None:
            raise self.error
        return self.groups

    def _release(self, ask: ReleaseAsk) -> Any:
        self.asked.append([group.name for group in ask.groups])
        return SimpleNamespace(tickets=self.released)

    def _overdue(self, _: str, groups: Sequence[str], at: int, __: int) -> Overdue:
        self.asked.append((list(groups), at))
        return self.overdue

    def _deliver(
        self, _: str, ticket: Ticket, *, adopted: bool = False, unclaimed: str = ""
    ) -> None:
        self.delivered.append((ticket.entry, adopted, unclaimed))


@pytest.fixture
def world() -> World:
    """A worker that looks from now on."""
    return World()


def test_what_the_worker_releases_is_left_alone(world: World) -> None:
    """Tasks under limits as they are declared now are released, not adopted."""
    world.groups = {"known": MINE}
    world.loop.run_for(SHORTEST)
    assert world.looked == [SHORTEST]
    assert world.asked == []


def test_tasks_under_other_limits_are_parked_anew(world: World) -> None:
    """Tasks of the worker's queue whose limits are declared in another way are taken out and
    delivered, to be parked again; one whose time is over is delivered to be a dead letter."""
    world.groups = {"known": MINE, "old": MINE}
    world.released = (ticket("t1"), ticket("t2", late=True))
    world.loop.run_for(SHORTEST)
    assert world.asked == [["old"]]
    assert world.delivered == [("t1", True, ""), ("t2", False, "")]


def test_many_are_adopted_in_parts(world: World) -> None:
    """After a full part the next one follows at once; after the last one the worker looks rarely
    again."""
    world.groups = {"old": MINE}
    world.released = tuple(ticket(str(number)) for number in range(50))
    world.loop.run_for(SHORTEST + SECOND // 10)
    assert len(world.looked) == 3
    world.released = ()
    world.loop.run_for(SECOND)
    assert len(world.looked) == 4


def test_tasks_of_a_queue_of_others_become_dead_letters_when_their_time_is_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Such tasks are never adopted; their dead letter names the queue that no worker consumes."""
    world.groups = {"theirs": OTHERS, "theirs too": OTHERS}
    world.overdue = Overdue(0, (ticket("t1", late=True),), 0, False, 0)
    world.loop.run_for(SHORTEST)
    assert world.asked == [(["theirs", "theirs too"], 0)]
    assert world.delivered == [("t1", False, OTHERS)]
    assert OTHERS in caplog.text


def test_the_next_look_is_when_a_time_is_over(world: World) -> None:
    """The worker comes back when the first task of another queue has waited too long, and meanwhile
    at least once a minute."""
    world.groups = {"theirs": OTHERS}
    world.overdue = Overdue(SHORTEST, (), SHORTEST + 7 * SECOND, False, 1)
    world.loop.run_for(SHORTEST)
    world.overdue = Overdue(0, (), 0, False, 0)
    world.loop.run_for(7 * SECOND + LONGEST)
    assert world.looked == [SHORTEST, SHORTEST + 7 * SECOND, SHORTEST + 7 * SECOND + LONGEST]


def test_a_lot_of_many_lanes_is_looked_through_in_parts(world: World) -> None:
    """A look into a part of the lanes is followed by one into the next part, and then from the
    beginning again."""
    world.groups = {"theirs": OTHERS}
    world.overdue = Overdue(0, (), 0, True, 1)
    world.loop.run_for(SHORTEST + SECOND // 20)
    world.overdue = Overdue(0, (), 0, False, 1)
    world.loop.run_for(SECOND // 20 + LONGEST)
    assert [at for _, at in world.asked] == [0, MOST_LOOKED_AT, 2 * MOST_LOOKED_AT, 0]


@pytest.mark.parametrize("error", [StoreUnavailable(), TypeError()])
def test_a_look_that_fails_is_not_the_last(world: World, error: Exception) -> None:
    """Whatever fails in one lot, the worker looks again later."""
    world.error = error
    world.loop.run_for(SHORTEST + 2 * LONGEST)
    assert len(world.looked) >= 1
    world.error = None
    world.adoption._outage.answered("api")
    looked = len(world.looked)
    world.loop.run_for(LONGEST)
    assert len(world.looked) == looked + 1


def test_a_queue_that_is_no_longer_consumed_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tasks wait for another worker, which the log says once; those of a queue that is consumed
    now are looked for at once."""
    world.groups = {"known": MINE, "theirs": OTHERS}
    world.consumed = (OTHERS,)
    world.adoption.queues_changed()
    world.loop.run_for(0)
    assert world.asked[0] == ["theirs"]
    told = [said for said in caplog.messages if f"the queue {MINE} wait" in said]
    assert len(told) == 1


def test_a_worker_that_lost_its_connection_looks_no_more(world: World) -> None:
    """A timer of before a reconnection looks into nothing."""
    world.adoption.stop()
    world.loop.run_for(LONGEST)
    assert world.looked == []
