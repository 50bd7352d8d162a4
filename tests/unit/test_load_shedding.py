"""What would only wait is refused before it is published."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest

from governor.clock import SECOND
from governor.errors import Overloaded, StoreUnavailable
from governor.events import Emitter
from governor.policy.limits import Limit
from governor.policy.parking_values import Arrival, ReleaseAsk
from governor.policy.settlement import Settlement
from governor.policy.upstream import UpstreamDeclaration
from governor.producer.load_shedding import LoadShedding
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.testing.conformance_parking import FAST, group, lane, task


def door(clock: FakeClock, arrivals: Sequence[Arrival], released: int = 0) -> LoadShedding:
    store = MemoryStore(clock.wall)
    store.settle(Settlement("api"))
    clock.advance(3600 * SECOND)
    store.lots.park("api", arrivals)
    if released:
        store.lots.release(ReleaseAsk("api", (group(FAST),), released, 0, SECOND, "t"))
        clock.advance(SECOND)
    return LoadShedding(store, clock, Emitter())


def some(number: int) -> list[Arrival]:
    return [task(f"t{n}", lane(FAST)) for n in range(number)]


def test_too_many_are_refused_with_the_numbers() -> None:
    """At max_waiting parked tasks the next one is refused, and says how many and how long."""
    upstream = UpstreamDeclaration("api", Limit("10/s"), max_waiting=3)
    clock = FakeClock()
    with pytest.raises(Overloaded) as caught:
        door(clock, some(5), released=2).check(upstream, "charge")
    error = caught.value
    assert (error.upstream, error.waiting, error.limit) == ("api", 3, "max_waiting")
    assert error.drain == pytest.approx(1.5)
    assert pickle.loads(pickle.dumps(error)).drain == error.drain


@pytest.mark.parametrize(
    ("waiting", "released", "max_wait", "refused"),
    [
        # two a second leave sixteen in eight seconds
        (18, 2, 9, False),
        (18, 2, 7, True),
        # nobody knows how fast they leave
        (18, 0, 1, False),
    ],
)
def test_a_wait_beyond_max_wait_is_refused(
    waiting: int, released: int, max_wait: float, refused: bool
) -> None:
    """Those who wait would take longer than a task may wait."""
    upstream = UpstreamDeclaration("api", Limit("10/s"), max_waiting=1_000, max_wait=max_wait)
    checked = door(FakeClock(), some(waiting), released)
    if refused:
        with pytest.raises(Overloaded, match="max_wait"):
            checked.check(upstream, "charge")
    else:
        checked.check(upstream, "charge")


def test_without_a_bound_nobody_asks() -> None:
    """An upstream that declares no max_waiting costs its producers no call."""

    class Broken(MemoryStore):
        @property
        def lots(self) -> object:  # type: ignore[override]
            raise AssertionError

        @lots.setter
        def lots(self, value: object) -> None: ...

    shedding = LoadShedding(Broken(lambda: 0), FakeClock(), Emitter())
    shedding.check(UpstreamDeclaration("api", Limit("10/s")), "charge")


def test_a_store_that_is_away_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers go on while the limiter's Redis does not answer."""
    clock = FakeClock()
    store = MemoryStore(clock.wall)

    def away(_: str) -> tuple[int, int, int]:
        raise StoreUnavailable("away.")

    monkeypatch.setattr(store.lots, "waiting", away)
    shedding = LoadShedding(store, clock, Emitter())
    shedding.check(UpstreamDeclaration("api", Limit("10/s"), max_waiting=1), "charge")


def test_what_is_seen_is_believed_for_a_moment() -> None:
    """A producer of thousands of tasks asks four times a second."""
    clock = FakeClock()
    store = MemoryStore(clock.wall)
    checked = LoadShedding(store, clock, Emitter())
    upstream = UpstreamDeclaration("api", Limit("10/s"), max_waiting=1)
    checked.check(upstream, "charge")
    store.lots.park("api", some(2))
    checked.check(upstream, "charge")
    clock.advance(SECOND // 4)
    with pytest.raises(Overloaded):
        checked.check(upstream, "charge")
