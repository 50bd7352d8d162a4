"""The Redis store keeps the limiter store's contract, and answers as the specification does."""

from __future__ import annotations

import heapq
import os
import signal
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from unittest.mock import Mock

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governor.clock import SECOND
from governor.errors import ConfigurationError, StoreUnavailable
from governor.keys import bucket_key
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.adjustment import Adjustment
from governor.policy.breaker import BreakerPolicy
from governor.policy.decision import (
    Admit,
    AnyCharge,
    Ask,
    Charge,
    ClaimAsk,
    LeaseCharge,
    QuotaCharge,
    Reservation,
    Wait,
    WindowCharge,
)
from governor.policy.limits import Limit
from governor.policy.outcome import Outcome
from governor.policy.plan import CallPlan
from governor.policy.settlement import ClaimAction, Settlement
from governor.policy.upstream import UpstreamDeclaration
from governor.ports import Change
from governor.stores.memory import MemoryStore
from governor.stores.redis.resp import Connection, Refused
from governor.stores.redis.store import RedisStore
from governor.testing.clock import START, FakeClock
from governor.testing.conformance import LimiterStoreConformance, StoreHarness
from governor.testing.redis_server import PrivateRedis
from tests.integration.scripted_clock import ScriptedRedis

pytestmark = pytest.mark.redis


@pytest.fixture
def scripted(redis_url: str) -> Iterator[ScriptedRedis]:
    scripted = ScriptedRedis(redis_url)
    yield scripted
    scripted.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url, timeout=10 * SECOND)
    yield store
    store.close()


class TestRedisStore(LimiterStoreConformance):
    @pytest.fixture
    def harness(self, scripted: ScriptedRedis) -> StoreHarness:
        return StoreHarness(scripted.store, advance=scripted.advance)


_DAY = 86_400 * SECOND

CHARGES: list[AnyCharge] = [
    # plain pacing
    Charge("s", "10/s", interval=100_000, capacity=100_000),
    # a burst of five less a margin of 50 ms, for one account
    Charge("s5:acct", "10/s", interval=100_000, capacity=450_000),
    # an interval that is no round number
    Charge("m", "7/min", interval=8_571_429, capacity=25_000_000),
    # a costly call
    Charge("d", "1000/day", interval=259_200_000, capacity=8_640_000_000),
    # a window whose log is exact
    WindowCharge("w", "3 in any 5 s", 3, 5_050_000),
    # one kept in groups of two, and a costly call in it
    WindowCharge("w2:acct", "2000 in any 5 s", 2_000, 5_000_000, cost=900),
    # periods of twenty seconds
    QuotaCharge("q", "4 each day", 4, "day", "UTC", 3, bounds=(
        START - 20 * SECOND, START, START + 20 * SECOND, START + 40 * SECOND)),
    # two leases
    LeaseCharge("in-flight", "2 in flight", 2),
]  # fmt: skip
BREAKER = BreakerPolicy(failures=2, of=5, open_for=3 * SECOND, ramp=2, probe=4 * SECOND)
RATES = AdaptivePolicy(floor=256, cut=700, step=200)

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["admit"] * 6
            + ["pause", "finish", "release", "renew", "fail", "probe", "adjust", "change"]
        ),
        # the clock's step before it; backward, as a server's clock may step
        st.integers(-200_000, 20_000_000) | st.integers(0, 300_000),
        st.sets(st.integers(0, len(CHARGES) - 1), max_size=4),
        st.booleans(),  # come back with the reservation held, if any
        st.sampled_from([None, "first", "second", "third"]),  # claim and hold under this name
        st.sampled_from([3_600 * SECOND, 150_000]),  # patience
        st.sampled_from([0, 150_000, 5 * SECOND]),  # the longest wait charged at once
        st.sampled_from([0, 1, 7]),  # successes told, units corrected
        st.sampled_from(["m", "m", "n"]),  # the message, of those under one task id
    ),
    max_size=25,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
def test_lua_answers_as_the_specification(steps: list, scripted: ScriptedRedis) -> None:
    """The same arrivals get the same answers from the scripts and from the pure policy, and leave
    the same state."""
    scripted.client.flushall()
    scripted.advance(0)
    clock = FakeClock(scripted.now)
    specification = MemoryStore(clock.wall)
    held: tuple[Reservation, ...] = ()
    version = 0
    for kind, step, indices, use_held, token, max_wait, hold, number, message in steps:
        scripted.advance(step)
        clock.advance(step)
        claim = ClaimAsk("t", 0, message, token, 5 * SECOND, 3600 * SECOND) if token else None
        charges = tuple(CHARGES[index] for index in sorted(indices))
        if kind == "admit":
            ask = Ask(
                "api", charges, 50_000, hold, 3 * hold, max_wait, None,
                held if use_held else (), claim if token in {"first", "second"} else None,
                token or "nobody", 6 * SECOND, version,
                clock.now + 1_000_000 if number == 1 and not use_held else 0,
                BREAKER if hold else None, RATES if max_wait > SECOND else None, number,
                late=5 * SECOND if use_held and number else 0,
            )  # fmt: skip
            answer = scripted.store.admit(ask)
            assert answer == specification.admit(ask)
            if isinstance(answer, Wait):
                held = answer.reserved
        elif kind == "adjust":
            wanted = [
                Adjustment(c, number - 2, number if use_held else None, number // 3, max(step, 0))
                for c in charges if not isinstance(c, LeaseCharge)
            ]  # fmt: skip
            scripted.store.adjust("api", wanted)
            specification.adjust("api", wanted)
        elif kind == "change":
            what = "set" if token else "resume"
            # What a resumed upstream begins with, in 1,024ths of its rates; or it begins as it was.
            begins = "" if number == 0 else str(100 * number)
            value = str(number) if token else begins
            change = Change("api", what, token or "", value, "ann", "because")
            in_force = scripted.store.change(change)
            assert in_force == specification.change(change)
            version = in_force.version
        else:
            settlement = _settlement(kind, token or "nobody", claim)
            assert scripted.store.settle(settlement) == specification.settle(settlement)
    looked, meant = (s.look("api", CHARGES) for s in (scripted.store, specification))
    assert looked.state.breaker == meant.state.breaker
    assert looked.state.share == meant.state.share
    assert looked.in_force == meant.in_force
    for name in ("m", "n", "o"):
        begun = [s.claimed_by("api", "t", 0, name) for s in (scripted.store, specification)]
        assert begun[0] == begun[1]


BUCKETS = [
    Charge(name, name, interval, capacity)
    for name, interval, capacity in [
        ("s", 100_000, 100_000), ("t", 70_000, 300_000), ("u", 31_415, 40_000), ("v", 9_000, 90_000)
    ]
]  # fmt: skip


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(
        st.tuples(
            # the clock's step before it
            st.sampled_from([0, 0, 40_000, 70_000, 100_000]) | st.integers(-20_000, 300_000),
            st.sampled_from(["admit"] * 12 + ["return"] * 2 + ["pause"]),
            st.sampled_from([BUCKETS[:1], BUCKETS[1:2], BUCKETS[:2], BUCKETS[:3], BUCKETS]),
            st.sampled_from([0, 0, 30_000, 300_000]),  # the longest wait charged at once
            st.sampled_from([3_600 * SECOND] * 4 + [150_000]),  # patience
        ),
        min_size=5,
        max_size=40,
    )
)
def test_lua_answers_as_the_specification_about_leaky_buckets(
    steps: list, scripted: ScriptedRedis
) -> None:
    """The question that the script decides before all others, about one to four leaky buckets of an
    upstream, gets the same answers from it and from the pure policy."""
    scripted.client.flushall()
    scripted.advance(0)
    clock = FakeClock(scripted.now)
    specification = MemoryStore(clock.wall)
    held: tuple[Reservation, ...] = ()
    for step, kind, charges, hold, max_wait in steps:
        scripted.advance(step)
        clock.advance(step)
        if kind == "pause":
            settlement = Settlement("api", pause=40_000, outcome=Outcome.THROTTLED)
            assert scripted.store.settle(settlement) == specification.settle(settlement)
            continue
        reserved = held if kind == "return" else ()
        ask = Ask(
            "api", tuple(charges), 50_000, hold, 3 * hold, max_wait, None, reserved,
            breaker=BREAKER, adaptive=RATES, late=200_000 if reserved else 0,
        )  # fmt: skip
        answer = scripted.store.admit(ask)
        assert answer == specification.admit(ask)
        if isinstance(answer, Wait):
            held = answer.reserved


def _settlement(kind: str, holder: str, claim: ClaimAsk | None) -> Settlement:
    action = ClaimAction(kind) if kind in set(ClaimAction) else ClaimAction.FINISH
    outcome = {"pause": Outcome.THROTTLED, "fail": Outcome.FAILED}.get(kind, Outcome.SUCCESS)
    pause = 3 * SECOND if kind == "pause" else 0
    return Settlement(
        "api", holder, action, claim if kind in set(ClaimAction) else None, ("in-flight",),
        6 * SECOND, pause, outcome, kind in {"probe", "fail"}, BREAKER, RATES,
    )  # fmt: skip


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    gaps=st.lists(st.integers(0, 400_000), min_size=1, max_size=60),
    burst=st.integers(1, 5),
    window=st.integers(1, 3_000_000),
)
def test_never_more_than_the_burst_and_the_rate(
    gaps: list[int], burst: int, window: int, scripted: ScriptedRedis
) -> None:
    """In any window W, at most burst + rate × W calls are admitted, whatever the arrivals."""
    scripted.client.flushall()
    scripted.advance(0)
    limit = Limit("10/s", burst=burst, margin=0)
    plan = CallPlan.of("t", UpstreamDeclaration("api", limit))
    admitted: list[int] = []
    for gap in gaps:
        scripted.advance(gap)
        answer = scripted.store.admit(Ask("api", plan.charges((), {}), 0, 0, 0, 0))
        if isinstance(answer, Admit):
            admitted.append(answer.now)
    for start in admitted:
        calls = sum(start <= moment < start + window for moment in admitted)
        assert calls <= burst + window / 100_000


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 300_000), st.sampled_from([0, 0, 60_000, 250_000])),
        min_size=1,
        max_size=40,
    ),
    burst=st.integers(1, 4),
    hold=st.sampled_from([0, 2 * SECOND]),
    window=st.integers(1, 3_000_000),
)
def test_never_more_than_the_burst_and_the_rate_of_the_window_and_the_lateness(
    arrivals: list[tuple[int, int]], burst: int, hold: int, window: int, scripted: ScriptedRedis
) -> None:
    """Bodies that come up to L late ask again on what they paid: in any window W at most
    burst + rate × (W + L) calls are made, and each call asks twice at the most."""
    scripted.client.flushall()
    scripted.advance(0)
    limit = Limit("10/s", burst=burst, margin=0)
    plan = CallPlan.of("t", UpstreamDeclaration("api", limit))
    charges = plan.charges((), {})
    made: list[int] = []
    # When each asks, how late its body comes, and what it holds.
    waiting: list[tuple[int, int, int, tuple[Reservation, ...], bool]] = []
    at = scripted.now
    for number, (gap, lateness) in enumerate(arrivals):
        at += gap
        heapq.heappush(waiting, (at, number, lateness, (), False))
    while waiting:
        at, number, lateness, held, late = heapq.heappop(waiting)
        scripted.advance(max(at - scripted.now, 0))
        answer = scripted.store.admit(
            Ask("api", charges, 0, hold, hold, 3_600 * SECOND, reserved=held,
                late=SECOND if late else 0)
        )  # fmt: skip
        if isinstance(answer, Wait):
            assert not late
            heapq.heappush(waiting, (answer.until, number, lateness, answer.reserved, False))
        elif lateness and not late:
            assert isinstance(answer, Admit)
            paid = tuple(Reservation(charge.bucket, answer.slot, True) for charge in charges)
            heapq.heappush(waiting, (answer.now + lateness, number, lateness, paid, True))
        else:
            assert isinstance(answer, Admit)
            made.append(answer.now)
    assert len(made) == len(arrivals)
    for start in made:
        calls = sum(start <= moment < start + window for moment in made)
        assert calls <= burst + (window + 250_000) / 100_000


def test_a_bucket_takes_at_most_125_bytes(store: RedisStore, redis_url: str) -> None:
    """The memory of one bucket per account stays within its stated bound."""
    upstream = UpstreamDeclaration("stripe", Limit("25/s", per="account"))
    plan = CallPlan.of("t", upstream)
    charges = plan.charges((), {"account": "acct_1NqsT2eZvKYlo2C" * 3})
    store.admit(Ask("stripe", charges, 50_000, SECOND, SECOND, 10 * SECOND))
    client = redis.Redis.from_url(redis_url)
    key = bucket_key("gov", "stripe", charges[0].bucket)
    assert client.exists(key)
    assert client.memory_usage(key) <= 125
    client.close()


def test_a_bucket_expires_once_it_is_empty_and_not_before(
    store: RedisStore, redis_url: str
) -> None:
    """A key lives until its reserved horizon and about a second longer."""
    charge = Charge("m:acct", "1/min", interval=60 * SECOND, capacity=60 * SECOND)
    wait = store.admit(Ask("api", (charge,), 50_000, SECOND, SECOND, 3600 * SECOND))
    assert isinstance(wait, Wait)
    horizon = wait.until + charge.capacity
    client = redis.Redis.from_url(redis_url)
    key = bucket_key("gov", "api", "m:acct")
    (seconds, micros), ttl = client.pipeline().time().pttl(key).execute()
    client.close()
    expires = seconds * SECOND + micros + ttl * 1000
    assert horizon <= expires <= horizon + 1_100_000


def test_a_forgotten_script_is_sent_again(store: RedisStore, redis_url: str) -> None:
    """SCRIPT FLUSH between two decisions goes unnoticed."""
    charge = Charge("s", "10/s", interval=100_000, capacity=100_000)
    store.admit(Ask("api", (charge,), 50_000, SECOND, SECOND, SECOND))
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    assert isinstance(store.admit(Ask("api", (charge,), 50_000, SECOND, SECOND, SECOND)), Wait)


def test_threads_share_one_store(store: RedisStore) -> None:
    """Decisions made from many threads at once are counted exactly."""
    store.settle(Settlement("api"))
    charge = Charge("d", "1/h", interval=3600 * SECOND, capacity=3600 * SECOND)
    ask = Ask("api", (charge,), 50_000, SECOND, SECOND, 10**15)
    answers: list[object] = []

    def decide() -> None:
        for _ in range(25):
            answers.append(store.admit(ask))

    threads = [threading.Thread(target=decide) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slots = sorted(answer.until for answer in answers if isinstance(answer, Wait))
    assert len(slots) == 200
    assert {b - a for a, b in pairwise(slots)} == {3600 * SECOND}


def test_a_forked_child_has_connections_of_its_own(store: RedisStore) -> None:
    """A child process never reads a reply meant for its parent."""
    store.settle(Settlement("api"))
    assert store._client.seed.idle
    child = os.fork()
    if child == 0:
        try:
            store.settle(Settlement("api", pause=SECOND))
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert store.settle(Settlement("api")).pause > 0


def test_a_server_that_is_gone_is_an_error_with_a_name() -> None:
    """Nobody listening: StoreUnavailable, at once, and without the URL's password."""
    store = RedisStore("redis://:hunter2@127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable) as caught:
        store.settle(Settlement("api"))
    assert "hunter2" not in str(caught.value)


def test_a_server_that_stops_answering_is_waited_for_no_longer_than_the_timeout(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """On a connection that is open: StoreUnavailable, and the next call has one of its own."""
    with PrivateRedis(tmp_path_factory.mktemp("stopped")) as server:
        store = RedisStore(server.url, timeout=SECOND // 5)
        store.settle(Settlement("api"))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                store.settle(Settlement("api"))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert not store._client.seed.idle
        assert store.settle(Settlement("api")).now
        store.close()


def test_a_url_that_is_none_names_the_setting() -> None:
    """A wrong URL is a configuration error that says what to write."""
    with pytest.raises(ConfigurationError, match="governor_redis_url"):
        RedisStore("localhost:6379")


def test_a_primary_that_became_a_replica_is_left(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """After a failover the old primary refuses to write: that connection is not used again, and
    the next call finds whoever is the primary then."""
    with (
        PrivateRedis(tmp_path_factory.mktemp("old")) as old,
        PrivateRedis(tmp_path_factory.mktemp("new")) as new,
        redis.Redis.from_url(old.url) as client,
    ):
        store = RedisStore(old.url, timeout=10 * SECOND)
        store.settle(Settlement("api"))
        client.replicaof("127.0.0.1", new.port)
        with pytest.raises(StoreUnavailable, match="READONLY"):
            store.settle(Settlement("api"))
        assert not store._client.seed.idle
        client.replicaof("NO", "ONE")
        assert store.settle(Settlement("api")).now
        store.close()


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        # all are numbers
        (b":1\r\n:-2\r\n:3\r\n", [1, -2, 3]),
        # one is not
        (b":1\r\n*5\r\n:2\r\n:3\r\n:4\r\n:5\r\n:6\r\n:7\r\n", [1, [2, 3, 4, 5, 6], 7]),
        (b":1\r\n$5\r\n1\r\n:2\r\n:3\r\n", [1, b"1\r\n:2", 3]),
        (b":1\r\n-BUSY a script\r\n:3\r\n", [1, Refused("BUSY", "a script"), 3]),
        (b"-BUSY a script\r\n:2\r\n:3\r\n", [Refused("BUSY", "a script"), 2, 3]),
        # one alone
        (b":7\r\n", [7]),
        (b"*5\r\n:1\r\n:2\r\n:3\r\n:4\r\n:0\r\n", [[1, 2, 3, 4, 0]]),
        (b"*5\r\n:1\r\n:2\r\n:3\r\n:4\r\n$1\r\n0\r\n", [[1, 2, 3, 4, b"0"]]),
    ],
)
def test_replies_that_arrive_at_once_are_told_apart(data: bytes, replies: list) -> None:
    """What is read without a parser means the same as with one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        assert Connection(Mock(_sock=ours)).exchange([b""] * len(replies)) == replies


def test_a_reply_in_pieces_is_read_as_a_whole() -> None:
    """Replies that arrive cut anywhere are put together, and none is taken for another's."""
    data = b":12\r\n*2\r\n$4\r\na\r\nb\r\n*1\r\n:-3\r\n-NOSCRIPT no such\r\n$-1\r\n+OK\r\n"
    whole = [12, [b"a\r\nb", [-3]], Refused("NOSCRIPT", "no such"), None, b"OK"]
    for size in range(1, len(data) + 1):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connection = Connection(Mock(_sock=ours))
            sender = threading.Thread(
                target=lambda size=size, theirs=theirs: [
                    theirs.sendall(data[at : at + size]) for at in range(0, len(data), size)
                ]
            )
            sender.start()
            assert connection.exchange([b""] * len(whole)) == whole
            sender.join()
