"""Listeners hear of an upstream's pauses, breaker and age when a worker learns of them, once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from governor.admission.store_calls import timed
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.events import (
    BreakerMoved,
    Emitter,
    Event,
    StateLost,
    StoreAnswered,
    UpstreamPaused,
)
from governor.policy.decision import Wait
from governor.policy.settlement import Settled
from governor.testing.clock import FakeClock
from governor.worker.known_upstreams import KnownUpstreams

NOW = 5_000 * SECOND
WALL = 1_000 * SECOND


class Told:
    """What a worker tells, with the store's clock at NOW and its own at WALL."""

    def __init__(self) -> None:
        self.events, self.heard = Emitter(), list[Event]()
        self.events.listen(self.heard.append)
        self.known = KnownUpstreams(self.events, FakeClock(WALL))

    def settled(self, **answer: Any) -> None:
        self.known.settled("api", Settled(NOW, **{"pause": 0, "since": 1, **answer}))

    def waits(self, limit: str, *, paused: bool = False, until: int = NOW + SECOND) -> None:
        self.known.told_to_wait("api", Wait(NOW, until, limit, paused=paused))


def moved(*states: str) -> list[Event]:
    return [BreakerMoved(WALL, "api", *pair) for pair in pairwise(states)]


def test_a_pause_is_told_when_it_is_new_or_longer() -> None:
    """The settlement that made it says so, and the tasks that wait for it no more."""
    told = Told()
    told.settled(pause=NOW - SECOND)
    told.settled(pause=NOW + SECOND)
    told.settled(pause=NOW + SECOND)
    told.waits("pause", paused=True)
    told.waits("pause", paused=True, until=NOW + 3 * SECOND)
    assert told.heard == [
        UpstreamPaused(WALL, "api", WALL + SECOND),
        UpstreamPaused(WALL, "api", WALL + 3 * SECOND),
    ]


def test_a_breaker_is_told_as_it_moves() -> None:
    """It opens under a task of another worker, lets a probe through, and closes."""
    told = Told()
    told.settled()
    told.waits("breaker")
    told.waits("breaker")
    told.known.probes("api")
    # All but the probes wait meanwhile.
    told.waits("breaker")
    told.settled(breaker="half_open")
    told.settled(breaker="closed")
    assert told.heard == moved("closed", "open", "half_open", "closed")


def test_a_state_is_lost_when_the_store_begins_anew() -> None:
    """An upstream that the store has known for less long than this worker was forgotten there."""
    told = Told()
    told.settled(since=7)
    told.settled(since=7)
    told.settled(since=NOW)
    told.settled(since=NOW)
    assert told.heard == [StateLost(WALL, "api")]


def test_a_wait_for_a_limit_tells_nothing_of_the_upstream() -> None:
    """Most waits are such."""
    told = Told()
    told.waits("100/s")
    assert told.heard == []


def test_a_round_trip_is_timed() -> None:
    """Its answer goes to the caller, its duration to listeners."""
    clock, events, heard = FakeClock(WALL), Emitter(), list[Event]()
    assert timed(events, clock, "park", lambda: "unheard") == "unheard"
    events.listen(heard.append)

    def work() -> str:
        clock.advance(400)
        return "answer"

    assert timed(events, clock, "park", work, 3) == "answer"
    assert heard == [StoreAnswered(WALL + 400, "park", 3, 400)]


def test_a_round_trip_without_an_answer_is_not_measured() -> None:
    """An outage is told in another way, and its timeout would be taken for the store's pace."""
    events, heard = Emitter(), list[Event]()
    events.listen(heard.append)

    def work() -> None:
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        timed(events, FakeClock(), "settle", work)
    assert heard == []
