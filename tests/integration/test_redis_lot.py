"""The parking lots in Redis keep their contract, and answer as the specification does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.breaker import BreakerPolicy
from governor.policy.decision import Ask, LaneKey
from governor.policy.limits import Concurrency, Limit, Quota, Rule, Window
from governor.policy.outcome import Outcome
from governor.policy.parking_values import Arrival, Group, Lane, ReleaseAsk, Steering
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Change
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.testing.conformance import StoreHarness
from governor.testing.conformance_parking import ParkingLotConformance
from tests.integration.scripted_clock import ScriptedRedis

pytestmark = pytest.mark.redis


@pytest.fixture
def scripted(redis_url: str) -> Iterator[ScriptedRedis]:
    scripted = ScriptedRedis(redis_url)
    yield scripted
    scripted.close()


class TestRedisLots(ParkingLotConformance):
    @pytest.fixture
    def harness(self, scripted: ScriptedRedis) -> StoreHarness:
        return StoreHarness(scripted.store, advance=scripted.advance)


RULES: dict[str, tuple[Rule, ...]] = {
    # one bucket that all share, with a burst
    "plain": (Limit("10/s", burst=3),),
    # a bucket that all share, one for each account, and a window for each account
    "accounts": (
        Limit("10/s", burst=3), Limit("7/3s", per="account", burst=2),
        Window(5, per_seconds=1, per="account"),
    ),
    # leases that all share, leases for each account, a quota
    "leases": (Concurrency(3), Concurrency(1, per="account", name="one"), Quota(40)),
}  # fmt: skip
GROUPS = {
    name: Group(name, tuple((rule.key, rule) for rule in rules)) for name, rules in RULES.items()
}
ACCOUNTS = ("a", "b")
BREAKER = BreakerPolicy(failures=2, of=5, open_for=3 * SECOND, ramp=2, probe=4 * SECOND)
RATES = AdaptivePolicy(floor=256, cut=700, step=200)


def lane(group: str, account: str, rank: int, flow: str) -> Lane:
    buckets = tuple(f"{rule.key}:{account}" if rule.per else rule.key for rule in RULES[group])
    return Lane(group, buckets, flow, rank, {"a": 1, "b": 3}.get(flow, 1), f"tenant {flow}")


def arrival(number: int, to: Lane, cost: int, **more: object) -> Arrival:
    costs = tuple(cost if rule.most > 1 and not isinstance(rule, Concurrency) else 1
                  for rule in RULES[to.group])  # fmt: skip
    return Arrival(f"task-{number}", to, costs, b"message \xff\n|%d" % number, **more)  # type: ignore[arg-type]


lanes = st.builds(
    lane, st.sampled_from([*RULES]), st.sampled_from(ACCOUNTS), st.sampled_from([0, 5]),
    st.sampled_from(ACCOUNTS),
)  # fmt: skip
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["park"] * 5
            + ["release"] * 8
            + ["settle"] * 2
            + ["admit", "steer", "renew", "pause", "change", "overdue"]
        ),
        # the clock's step before it
        st.integers(0, 8_000_000) | st.integers(0, 200_000) | st.just(0),
        st.lists(lanes, min_size=1, max_size=6),
        st.integers(1, 3),  # cost
        st.integers(0, 20),  # which task
        st.integers(0, 9),  # room
        st.booleans(),
        st.booleans(),
    ),
    min_size=10,
    max_size=40,
)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(begin=st.lists(st.tuples(lanes, st.integers(1, 3)), min_size=4, max_size=20), steps=steps)
def test_lua_releases_as_the_specification(
    begin: list, steps: list, scripted: ScriptedRedis
) -> None:
    """The same arrivals are released in the same order at the same instants by the scripts and by
    the pure policy, and what waits is the same in both."""
    scripted.client.flushall()
    scripted.advance(0)
    clock = FakeClock(scripted.now)
    specification = MemoryStore(clock.wall)
    both = (scripted.store, specification)
    for store in both:
        store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    clock.advance(3600 * SECOND)
    number = len(begin)
    first = [arrival(n, to, cost) for n, (to, cost) in enumerate(begin)]
    for store in both:
        store.lots.park("api", first)
    version = 0
    released: list = []
    for kind, step, chosen, cost, which, room, yes, also in steps:
        scripted.advance(step)
        clock.advance(step)
        results: list = []
        if kind == "park":
            fresh = []
            for to in chosen:
                number += 1
                back = released[which % len(released)].entry if yes and released else ""
                seen = which if also and which < number else number
                fresh.append(
                    arrival(
                        int(back.partition(":")[0][5:]) if back else seen,
                        to,
                        cost,
                        max_wait=20 * SECOND if which % 4 == 0 else 0,
                        expires_in=4 * SECOND if which % 7 == 0 else 0,
                        front=also,
                        message="" if which == 3 else f"m{room % 3}",
                        again=yes,
                    )
                )
            results = [store.lots.park("api", fresh) for store in both]
        elif kind == "release":
            names = [*RULES] if yes else sorted({to.group for to in chosen})
            key = chosen[0].buckets[1 % len(chosen[0].buckets)]
            groups = [GROUPS[name] for name in names]
            if which == 20:
                # Nobody knows the limits of these any more.
                groups[0] = Group(groups[0].name, ())
            question = ReleaseAsk(
                "api", tuple(groups), room,
                50_000, 6 * SECOND, f"t{number}", version,
                paused={key: clock.now + SECOND} if which < 6 else {},
                wall=clock.now, left=tuple(t.entry for t in released[:room]) if also else (),
                freed=(chosen[0].buckets[1],) if chosen[0].group == "leases" else (),
                news=also and which % 4 == 0, breaker=BREAKER if which < 15 else None,
                adaptive=RATES if which > 5 else None, successes=which % 2,
            )  # fmt: skip
            results = [store.lots.release(question) for store in both]
            released = [*results[0].tickets, *released]
        elif kind == "admit":
            to = chosen[0]
            charges = tuple(
                rule.charge_on(bucket, 1)
                for (_, rule), bucket in zip(GROUPS[to.group].limits, to.buckets, strict=True)
                if not isinstance(rule, Quota)
            )
            question = Ask(
                "api", charges, 50_000, 100_000, SECOND, 3600 * SECOND, holder=f"h{which}",
                lease=5 * SECOND, version=version,
                lane=LaneKey(to.group, to.name) if yes else None, whole=also and not yes,
            )  # fmt: skip
            results = [store.admit(question) for store in both]
        elif kind == "settle":
            for ticket in released[:room]:
                settlement = Settlement(
                    "api", ticket.holder, ClaimAction.FINISH, None,
                    ("in-flight", "one:a", "one:b"),
                    outcome=Outcome.FAILED if which == 1 else Outcome.SUCCESS, probe=ticket.probe,
                    breaker=BREAKER, adaptive=RATES,
                )  # fmt: skip
                results = [store.settle(settlement) for store in both]
        elif kind == "steer":
            what = ("back", "left", "cancel", "front", "move", "revoke")[which % 6]
            entries = tuple(f"task-{n}" for n in range(which, which + room))
            if what != "revoke":
                entries += tuple(f"{name}:m1" for name in entries)
            steering = Steering(
                what, entries, chosen[0] if what == "move" else None,
                "ops" if yes else "", "a reason" if yes else "",
            )  # fmt: skip
            if what == "move":
                same = scripted.store.lots.find("api", entries[0]) if entries else ()
                steering = Steering(
                    what, entries[:1] if same and same[0].lane.group == chosen[0].group else (),
                    chosen[0], "ops", "a reason",
                )  # fmt: skip
            results = [list(store.lots.steer("api", steering)) for store in both]
        elif kind == "overdue":
            names = sorted({to.group for to in chosen})
            results = [store.lots.overdue("api", names, which % 3, SECOND) for store in both]
            released = [*results[0].tickets, *released]
        elif kind == "renew":
            for store in both:
                store.lots.renew("api", [t.entry for t in released] or ["none"], 9 * SECOND)
        elif kind == "pause":
            for store in both:
                store.settle(Settlement("api", pause=room * 100_000))
        else:
            value = str(clock.now + SECOND) if yes else ("", "300")[which % 2]
            change = Change("api", "pause" if yes else "resume", "", value, "me", "w")
            results = [store.change(change) for store in both]
            if which:
                # Otherwise the next question is made of limits that are no longer in force.
                version = results[0].version
        if results:
            assert results[0] == results[1]
        entry = f"task-{which}"
        assert scripted.store.lots.find("api", entry) == specification.lots.find("api", entry)
    assert scripted.store.lots.view("api") == specification.lots.view("api")
    assert scripted.store.lots.waiting("api") == specification.lots.waiting("api")


@pytest.mark.parametrize("part", ["queue", "message"])
def test_a_lot_that_lost_a_part_goes_on(scripted: ScriptedRedis, part: str) -> None:
    """A queue or a message that an eviction took does not hold up the tasks of other lanes."""
    lots = scripted.store.lots
    scripted.store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    lost, kept = (lane("plain", "a", 0, flow) for flow in ("a", "b"))
    lots.park("api", [arrival(1, lost, 1), arrival(2, kept, 1)])
    if part == "queue":
        scripted.client.delete(f"gov:{{api}}:@q:{lost.name}")
    else:
        scripted.client.hdel("gov:{api}:@lot", "task-1")
    question = ReleaseAsk("api", (GROUPS["plain"],), 5, 0, SECOND, "t")
    released = lots.release(question).tickets
    assert [t.entry for t in released if not t.late] == ["task-2"]
    assert [t.payload for t in released if t.late] == ([] if part == "queue" else [b""])


def test_a_limit_that_cannot_be_read_loses_no_task(scripted: ScriptedRedis) -> None:
    """When a limit of one lane cannot be read, the other lanes go on, and those of this one wait on
    in their order; it is tried again after a second."""
    lots = scripted.store.lots
    scripted.store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    well, broken = lane("accounts", "a", 0, "a"), lane("accounts", "b", 5, "b")
    lots.park("api", [arrival(1, well, 1), *(arrival(n, broken, 1) for n in (2, 3, 4))])
    key = f"gov:{{api}}:{broken.buckets[1]}"
    scripted.client.rpush(key, "not a meter")
    question = ReleaseAsk("api", (GROUPS["accounts"],), 5, 0, 60 * SECOND, "t")
    released = lots.release(question)
    assert [t.entry for t in released.tickets] == ["task-1"]
    assert released.broken is not None
    assert released.broken.key == key
    assert released.next == released.now + SECOND
    assert lots.release(question).tickets == ()
    scripted.client.delete(key)
    scripted.advance(SECOND)
    assert [t.entry for t in lots.release(question).tickets] == ["task-2"]
    left = [waiting for n in (3, 4) for waiting in lots.find("api", f"task-{n}")]
    assert [waiting.position for waiting in left] == [1, 2]


def test_a_queue_that_cannot_be_read_loses_no_task_of_another_lane(scripted: ScriptedRedis) -> None:
    """A release that fails in the middle tells nothing of the tasks before: they come back when
    their lease is over."""
    lots = scripted.store.lots
    scripted.store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    # At equal tags the lane whose name is less has its turn first.
    well, broken = sorted((lane("plain", "a", 0, f) for f in ("a", "b")), key=lambda one: one.name)
    lots.park("api", [arrival(1, well, 1), arrival(2, broken, 1), arrival(3, well, 1)])
    queue = f"gov:{{api}}:@q:{broken.name}"
    scripted.client.rename(queue, "aside")
    scripted.client.set(queue, "not a queue")
    question = ReleaseAsk("api", (GROUPS["plain"],), 5, 0, SECOND, "t")
    with pytest.raises(UpstreamStateError):
        lots.release(question)
    scripted.client.rename("aside", queue)
    scripted.advance(SECOND)
    released = [*lots.release(question).tickets]
    scripted.advance(SECOND)
    released += lots.release(replace(question, left=tuple(t.entry for t in released))).tickets
    assert sorted(ticket.entry for ticket in released) == ["task-1", "task-2", "task-3"]


def test_what_all_lanes_share_that_cannot_be_read_loses_no_task(scripted: ScriptedRedis) -> None:
    """When a limit that all lanes share cannot be read, that is an error, and nothing is lost."""
    lots = scripted.store.lots
    scripted.store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    lots.park("api", [arrival(n, lane("plain", "a", 0, "a"), 1) for n in (1, 2)])
    scripted.client.hset("gov:{api}", "b:" + RULES["plain"][0].key, "garbage")
    question = ReleaseAsk("api", (GROUPS["plain"],), 5, 0, SECOND, "t")
    with pytest.raises(UpstreamStateError):
        lots.release(question)
    scripted.client.hdel("gov:{api}", "b:" + RULES["plain"][0].key)
    assert [t.entry for t in lots.release(question).tickets] == ["task-1", "task-2"]


def test_a_full_store_can_be_emptied(scripted: ScriptedRedis) -> None:
    """A server that takes no writes for want of memory still releases what waits, all of it and in
    order: a script's first write decides whether it may go on, and this one takes away."""
    lots = scripted.store.lots
    scripted.store.settle(Settlement("api"))
    scripted.advance(3600 * SECOND)
    fast = Group("plain", (("s", Limit("1000000/s", burst=1_000_000)),))
    lots.park("api", [arrival(n, lane("plain", "a", 0, "a"), 1) for n in range(60)])
    scripted.client.config_set("maxmemory", 1)
    gone: list[str] = []
    try:
        with pytest.raises(StoreUnavailable):
            lots.park("api", [arrival(60, lane("plain", "a", 0, "a"), 1)])
        while len(gone) < 60:
            asked = ReleaseAsk("api", (fast,), 25, 0, SECOND, "t", left=tuple(gone[-25:]))
            gone += [ticket.entry for ticket in lots.release(asked).tickets]
    finally:
        scripted.client.config_set("maxmemory", 0)
    assert gone == [f"task-{n}" for n in range(60)]
