"""Windows, concurrency, breakers and changes of limits, in real workers over a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from governor.keys import DEFAULT_PREFIX, state_key
from governor.ports import Change, Reason
from governor.stores.redis.store import RedisStore
from governor.testing.redis_server import PrivateRedis
from tests.integration.fleet import Fleet, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.integration.limits_app"
TIMEOUT = 60


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(limiter_url: str | None = None, **conf: Any) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        made.append(
            Fleet(tmp_path, redis_url, limiter_url or redis_url, database, conf=conf, module=MODULE,
                  backend_url=redis_url)
        )  # fmt: skip
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def most_at_once(lines: list[dict[str, Any]]) -> int:
    """The most bodies that had begun and not ended, at any line of the ledger."""
    flying = most = 0
    for line in lines:
        flying += 1 if line["event"] == "began" else -1
        most = max(most, flying)
    return most


def began(fleet: Fleet, task: str) -> list[dict[str, Any]]:
    return [line for line in fleet.ledger(task) if line["event"] == "began"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_places_are_the_fleets_and_who_waits_is_woken(
    make_fleet: Callable[..., Fleet], pool: str
) -> None:
    """Two workers of four pool slots share an upstream of two calls in flight. No lease runs out in
    the meantime: who waits goes when somebody ends, not when it asks again."""
    fleet = make_fleet(governor_claim_lease=600)
    for _ in range(2):
        fleet.worker(pool, concurrency=4)
    results = [fleet.send("in_flight", number, 0.1) for number in range(20)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(20))
    assert most_at_once(fleet.ledger("in_flight")) <= 2
    assert len(began(fleet, "in_flight")) == 20


def test_a_killed_workers_places_come_back(make_fleet: Callable[..., Fleet]) -> None:
    """After SIGKILL its leases are free when their time is over, and not before."""
    fleet = make_fleet(governor_claim_lease=3)
    victim = fleet.worker()
    for number in range(2):
        fleet.send("in_flight", number, 60.0)
    wait_until(lambda: len(began(fleet, "in_flight")) == 2)
    victim.kill()
    killed = time.monotonic()
    fleet.worker()
    result = fleet.send("in_flight", 2)
    assert result.get(timeout=TIMEOUT) == 2
    # Renewed every second: at least two were left of the lease.
    assert began(fleet, "in_flight")[2]["at"] - killed >= 1.5


def test_a_window_is_kept_by_the_fleet(make_fleet: Callable[..., Fleet]) -> None:
    """Never more than five calls in any two seconds, by the moments at which they were let go."""
    fleet = make_fleet()
    for _ in range(2):
        fleet.worker()
    results = [fleet.send("in_window", number) for number in range(15)]
    assert sorted(result.get(timeout=TIMEOUT) for result in results) == list(range(15))
    moments = sorted(line["at"] for line in began(fleet, "in_window"))
    # A body may begin up to the grace after its slot; the window is declared with as much margin.
    assert min(b - a for a, b in zip(moments, moments[5:], strict=False)) >= 1.9


def test_an_open_breaker_spares_the_upstream_and_closes_again(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """After two failures nobody calls; a probe finds out that the upstream is back, and then all
    who waited run. Waiting is no failure: only the two calls that were made are dead."""
    sign = tmp_path / "sign"
    sign.touch()
    fleet = make_fleet()
    fleet.worker()
    for _ in range(2):
        fleet.send("may_fail", str(sign))
    wait_until(lambda: len(fleet.dead()) == 2, timeout=TIMEOUT)
    sign.unlink()
    results = [fleet.send("may_fail", str(sign)) for _ in range(6)]
    assert [result.get(timeout=TIMEOUT) for result in results] == ["done"] * 6
    lines = began(fleet, "may_fail")
    assert len(lines) == 8
    assert lines[2]["at"] - lines[1]["at"] >= 0.9
    assert {row.reason for row in fleet.dead()} == {Reason.NOT_IDEMPOTENT}


def test_a_raised_limit_is_felt_at_once(make_fleet: Callable[..., Fleet], redis_url: str) -> None:
    """Tasks that would have waited for half a minute go when somebody raises the limit."""
    fleet = make_fleet(governor_hold=60)
    fleet.worker()
    store = RedisStore(redis_url)
    results = [fleet.send("seldom", number) for number in range(5)]
    wait_until(lambda: fleet.stats("held") + fleet.stats("deferred") >= 1)
    store.change(Change("slow", "set", "m", '{"rate": "100/s", "burst": 10}', "ann", "agreed"))
    store.close()
    assert sorted(result.get(timeout=TIMEOUT) for result in results) == list(range(5))


def test_a_persons_pause_holds_and_their_resume_lets_go(
    make_fleet: Callable[..., Fleet], redis_url: str
) -> None:
    """A paused upstream is not called; when it is resumed, who waited goes at once."""
    fleet = make_fleet()
    fleet.worker()
    store = RedisStore(redis_url)
    now = store.look("narrow", ()).now
    store.change(Change("narrow", "pause", "", str(now + 25_000_000), "ann", "incident"))
    result = fleet.send("in_flight", 1)
    wait_until(lambda: fleet.stats("held"))
    assert not began(fleet, "in_flight")
    resumed = time.monotonic()
    store.change(Change("narrow", "resume", "", "", "ann", "over"))
    store.close()
    assert result.get(timeout=TIMEOUT) == 1
    assert began(fleet, "in_flight")[0]["at"] - resumed < 20


def test_while_the_store_is_away_each_upstreams_policy_holds(
    make_fleet: Callable[..., Fleet], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a limiter an open upstream is called unlimited, a local one at the worker's share,
    and a closed one waits for the limiter to come back."""
    with PrivateRedis(tmp_path_factory.mktemp("limiter")) as limiter:
        fleet = make_fleet(limiter.url, governor_workers=2)
        fleet.worker()
        limiter.kill()
        open_ = [fleet.send("unlimited_when_away", number) for number in range(20)]
        local = [fleet.send("local_when_away", number) for number in range(11)]
        closed = fleet.send("in_flight", 1)
        assert [result.get(timeout=TIMEOUT) for result in open_] == list(range(20))
        assert [result.get(timeout=TIMEOUT) for result in local] == list(range(11))
        moments = sorted(line["at"] for line in began(fleet, "local_when_away"))
        # Half of twenty a second, no burst left.
        assert moments[-1] - moments[0] >= 0.9
        assert not began(fleet, "in_flight")
        limiter.restart()
        assert closed.get(timeout=TIMEOUT) == 1


def test_one_upstreams_broken_data_is_no_outage_of_the_others(
    make_fleet: Callable[..., Fleet], redis_url: str
) -> None:
    """While two upstreams' keys hold garbage, each follows its own policy and is named in the log
    once; another one keeps its declared rate. Mended, the one that waits goes on."""
    fleet = make_fleet()
    worker = fleet.worker("threads", concurrency=4)
    with redis.Redis.from_url(redis_url) as client:
        for name in ("narrow", "opened"):
            client.delete(state_key(DEFAULT_PREFIX, name))
            client.set(state_key(DEFAULT_PREFIX, name), "garbage")
        closed, open_, steady = [], [], []
        for number in range(40):
            if number < 5:
                closed.append(fleet.send("in_flight", number))
            if number < 20:
                open_.append(fleet.send("unlimited_when_away", number))
            steady.append(fleet.send("steadily", number))
        assert [result.get(timeout=TIMEOUT) for result in steady] == list(range(40))
        assert [result.get(timeout=TIMEOUT) for result in open_] == list(range(20))
        moments = sorted(line["at"] for line in began(fleet, "steadily"))
        # Two seconds at its rate; asked about once a second, it would have taken forty.
        assert 1.9 <= moments[-1] - moments[0] < 10
        assert not began(fleet, "in_flight")
        client.delete(state_key(DEFAULT_PREFIX, "narrow"))
        assert [result.get(timeout=TIMEOUT) for result in closed] == list(range(5))
    for name in ("narrow", "opened"):
        lines = [line for line in worker.log().splitlines() if f"gov:{{{name}}}:" in line]
        assert len(lines) == 1
        assert f"upstream {name}" in lines[0]
        assert f'DEL "gov:{{{name}}}"' in lines[0]
    assert "did not answer" not in worker.log()


def test_no_place_is_left_behind(make_fleet: Callable[..., Fleet], redis_url: str) -> None:
    """When all is done no lease is held: none leaks over failures, retries and successes."""
    fleet = make_fleet(governor_claim_lease=600)
    fleet.worker()
    for number in range(10):
        fleet.send("in_flight", number).get(timeout=TIMEOUT)
    with redis.Redis.from_url(redis_url) as client:
        wait_until(lambda: not client.exists("gov:{narrow}:in-flight"))


def test_a_call_inside_that_has_to_wait_makes_its_task_wait(
    make_fleet: Callable[..., Fleet],
) -> None:
    """A body whose call is not admitted gives its lease back and is started again when the call
    may be made; it costs no attempt, and pauses nobody."""
    fleet = make_fleet()
    fleet.worker()
    results = [fleet.send("calls_inside", number) for number in range(6)]
    assert sorted(result.get(timeout=TIMEOUT) for result in results) == list(range(6))
    lines = fleet.ledger("calls_inside")
    made = [line for line in lines if line["event"] == "ended"]
    assert len(made) == 6
    # Each is told the next slot, and who does not get it the one after: nobody asks in a loop.
    assert len(lines) - len(made) <= 6 * 7
    assert not fleet.dead()


def test_a_task_settles_what_leaves_the_reserve(
    make_fleet: Callable[..., Fleet], redis_url: str
) -> None:
    """What a task turned out to cost is charged to the limit and to what its reserve leaves; of an
    urgent one to the limit alone."""
    minute = 60_000_000
    state = state_key(DEFAULT_PREFIX, "metered")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset(state, "since", str(time.time_ns() // 1_000 - 180 * minute))
        fleet = make_fleet()
        fleet.worker()
        for cost, options, charged in ((20, {}, [20, 20]), (10, {"priority": 9}, [30, 20])):
            fleet.send("costs", cost, **options).get(timeout=TIMEOUT)
            now = time.time_ns() // 1_000
            limit, less = (
                int(value) - now for value in client.hmget(state, ["b:m", "b:less.m"]) if value
            )
            # In calls, of which what the reserve leaves takes two minutes each.
            assert [round(limit / minute), round(less / minute / 2)] == charged
