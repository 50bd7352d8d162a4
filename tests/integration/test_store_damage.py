"""Garbage in one upstream's keys: an error about that upstream, which names the key."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.policy.adjustment import Adjustment
from governor.policy.decision import (
    Admit,
    AnyCharge,
    Ask,
    Charge,
    ClaimAsk,
    LeaseCharge,
    QuotaCharge,
    WindowCharge,
)
from governor.policy.limits import Limit
from governor.policy.parking_values import Arrival, Group, Lane, ReleaseAsk, Steering
from governor.policy.settlement import Settlement
from governor.ports import Change
from governor.stores.redis.store import RedisStore
from governor.testing.redis_server import PrivateRedis

pytestmark = pytest.mark.redis

_DAY = 86_400 * SECOND
SHARED = Charge("s", "10/s", interval=100_000, capacity=10 * SECOND)
KEYED = Charge("s:acct", "10/s", interval=100_000, capacity=10 * SECOND)
WINDOW = WindowCharge("w", "5 in any 10 s", 5, 10 * SECOND)
_TODAY = time.time_ns() // 1000 // _DAY * _DAY
_BOUNDS = (_TODAY, _TODAY + _DAY, _TODAY + 2 * _DAY, _TODAY + 3 * _DAY)
QUOTA = QuotaCharge("q", "4 each day", 4, "day", "UTC", 3, bounds=_BOUNDS)
LEASES = LeaseCharge("in-flight", "2 in flight", 2)
CLAIM = ClaimAsk("task", 0, "m", "me", 30 * SECOND, _DAY)

STATE = "gov:{broken}"

Break = Callable[[redis.Redis], Any]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url, timeout=10 * SECOND)
    for upstream in ("broken", "sound"):
        store.settle(Settlement(upstream))
    yield store
    store.close()


def ask(*charges: AnyCharge, upstream: str = "broken", claim: ClaimAsk | None = None) -> Ask:
    return Ask(
        upstream, charges, 50_000, SECOND, SECOND, 3600 * SECOND, claim=claim, holder="me",
        lease=30 * SECOND,
    )  # fmt: skip


def wrong_type(key: str) -> Break:
    def put(client: redis.Redis) -> None:
        client.delete(key)
        client.geoadd(key, (1, 1, "x")) if "in-flight" not in key else client.set(key, "garbage")

    return put


GARBAGE: list[tuple[str, Break, tuple[AnyCharge, ...], str, str]] = [
    ("state", wrong_type(STATE), (SHARED,), STATE, ""),
    ("field", lambda c: c.hset(STATE, "b:s", "abc"), (SHARED,), STATE, "s"),
    ("field of another kind", lambda c: c.hset(STATE, "b:s", "1|x"), (SHARED,), STATE, "s"),
    ("infinity", lambda c: c.hset(STATE, "b:s", "inf"), (SHARED,), STATE, "s"),
    ("far away", lambda c: c.hset(STATE, "b:s", "9" * 16), (SHARED,), STATE, "s"),
    ("pause", lambda c: c.hset(STATE, "pause", "soon"), (SHARED,), STATE, ""),
    ("bucket", wrong_type(f"{STATE}:s:acct"), (KEYED,), f"{STATE}:s:acct", "s:acct"),
    ("text", lambda c: c.set(f"{STATE}:s:acct", "x"), (KEYED,), f"{STATE}:s:acct", "s:acct"),
    ("window", lambda c: c.set(f"{STATE}:w", "x"), (WINDOW,), f"{STATE}:w", "w"),
    ("window's line", wrong_type(f"{STATE}:w:line"), (WINDOW,), f"{STATE}:w:line", "w"),
    ("window's last", lambda c: c.rpush(f"{STATE}:w", "x"), (WINDOW,), f"{STATE}:w", "w"),
    ("window's log", lambda c: c.rpush(f"{STATE}:w", *["x"] * 5), (WINDOW,), f"{STATE}:w", "w"),
    ("quota", lambda c: c.set(f"{STATE}:q", "1|2"), (QUOTA,), f"{STATE}:q", "q"),
    ("leases", wrong_type(f"{STATE}:in-flight"), (LEASES,), f"{STATE}:in-flight", "in-flight"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "charges", "key", "part"), [g[1:] for g in GARBAGE], ids=[g[0] for g in GARBAGE]
)
def test_garbage_is_an_error_that_names_upstream_key_and_remedy(
    spoil: Break, charges: tuple[AnyCharge, ...], key: str, part: str,
    store: RedisStore, client: redis.Redis,
) -> None:  # fmt: skip
    """A wrong type or value under an upstream's key is said with names; asked for in one question,
    other upstreams get their answers."""
    if charges == (WINDOW,) and key.endswith(":line"):
        for _ in range(2):
            store.admit(ask(*charges))
    spoil(client)
    with pytest.raises(UpstreamStateError) as caught:
        store.admit(ask(*charges))
    assert (caught.value.upstream, caught.value.key, caught.value.part) == ("broken", key, part)
    assert "upstream broken" in str(caught.value)
    assert f'DEL "{key}"' in str(caught.value)
    free = ask(upstream="sound")
    answers = store.admit_many([free, ask(*charges), free])
    assert [type(answer) for answer in answers] == [Admit, UpstreamStateError, Admit]
    # The remedy works.
    command, *words = caught.value.remedy.removeprefix("Run ").replace('"', "").split()
    client.execute_command(command, *words)
    store.admit(ask(*charges))


def test_the_field_that_is_named_is_of_the_call(store: RedisStore, client: redis.Redis) -> None:
    """Of several limits with garbage the one that is named is among those of the call; a call of
    none of them goes."""
    client.hset(STATE, mapping={"b:other": "x", "b:s": "x", "b:zebra": "x"})
    with pytest.raises(UpstreamStateError) as caught:
        store.admit(ask(SHARED))
    assert caught.value.part == "s"
    store.admit(ask(KEYED))


def test_a_claim_that_is_garbage_concerns_its_task(store: RedisStore, client: redis.Redis) -> None:
    """A claim that cannot be read is an error about that claim."""
    key = f"{STATE}:c:task:0:m"
    client.set(key, "garbage")
    with pytest.raises(UpstreamStateError) as caught:
        store.admit(ask(SHARED, claim=CLAIM))
    assert (caught.value.key, caught.value.part) == (key, "c:task:0:m")


LANE = Lane("group", ("s",), "-", 0, 1, "", "celery")
RELEASE = ReleaseAsk(
    "broken", (Group("group", (("s", Limit("10/s")),)),), 10, SECOND, 30 * SECOND, "me"
)
ARRIVAL = Arrival("task.0", LANE, (1,), b"message", None, 3600 * SECOND)

CALLS: dict[str, Callable[[RedisStore], object]] = {
    "settle": lambda s: s.settle(Settlement("broken", pause=1)),
    "adjust": lambda s: s.adjust("broken", [Adjustment(SHARED, 1)]),
    "change": lambda s: s.change(Change("broken", "set", "s", "{}", "ann", "why")),
    "in_force": lambda s: s.in_force("broken"),
    "look": lambda s: s.look("broken", [SHARED]),
    "park": lambda s: s.lots.park("broken", [ARRIVAL]),
    "release": lambda s: s.lots.release(RELEASE),
    "steer": lambda s: s.lots.steer("broken", Steering("cancel", ("task.0",))),
    "waiting": lambda s: s.lots.waiting("broken"),
    "view": lambda s: s.lots.view("broken"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_about_the_upstream_says_so(
    call: Callable[[RedisStore], object], store: RedisStore, client: redis.Redis
) -> None:
    """Whatever the store is asked about an upstream whose state has the wrong type, the error is
    about that upstream."""
    client.delete(STATE)
    client.set(STATE, "x")
    with pytest.raises(UpstreamStateError, match=r"gov:\{broken\}: is of type string, not hash"):
        call(store)
    assert isinstance(store.admit(ask(upstream="sound")), Admit)


@pytest.mark.parametrize(
    ("field", "value", "call"),
    [
        ("version", "x", "in_force"),
        ("b:s", "x", "look"),
        ("breaker", "o|soon|1", "look"),
        ("lot", "x", "park"),
        ("lot", "x", "waiting"),
        ("released", "x", "view"),
        ("b:s", "x", "adjust"),
        ("pause", "x", "settle"),
        ("b:s", "x", "release"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(
    field: str, value: str, call: str, store: RedisStore, client: redis.Redis
) -> None:
    """A value that Python cannot read is as much an error about its key as one no script can."""
    store.lots.park("broken", [ARRIVAL])
    client.hset(STATE, field, value)
    with pytest.raises(UpstreamStateError, match=f"field {field} holds"):
        CALLS[call](store)


def test_one_accounts_garbage_keeps_only_its_lane(store: RedisStore, client: redis.Redis) -> None:
    """Parked tasks of other accounts are released past the one whose bucket cannot be read, which
    is named; mended, it goes too."""
    rule = Limit("10/s", per="account")
    group = Group("group", ((rule.key, rule),))
    for account in ("a", "b", "c"):
        lane = Lane("group", (f"{rule.key}:{account}",), account, 0, 1, account, "celery")
        store.lots.park("broken", [Arrival(f"{account}.0", lane, (1,), b"m", None, 3600 * SECOND)])
    client.set(f"{STATE}:{rule.key}:a", "garbage")
    question = ReleaseAsk("broken", (group,), 10, SECOND, 30 * SECOND, "me")
    released = store.lots.release(question)
    assert {ticket.entry for ticket in released.tickets} == {"b.0", "c.0"}
    assert released.broken is not None
    assert released.broken.part == f"{rule.key}:a"
    assert released.broken.key == f"{STATE}:{rule.key}:a"
    assert released.now < released.next <= released.now + SECOND
    again = store.lots.release(question)
    assert (again.tickets, again.broken) == ((), None)
    client.delete(f"{STATE}:{rule.key}:a")
    mended = store.lots.release(replace(question, news=True))
    assert [ticket.entry for ticket in mended.tickets] == ["a.0"]


def test_a_lot_that_is_broken_is_moved_away_not_deleted(
    store: RedisStore, client: redis.Redis
) -> None:
    """The remedy for a key of the parking lot loses nothing."""
    client.set(f"{STATE}:@out", "x")
    with pytest.raises(UpstreamStateError, match=r'RENAME "gov:\{broken\}:@out"'):
        store.lots.release(RELEASE)


def test_out_of_memory_is_the_stores(store: RedisStore, client: redis.Redis) -> None:
    """A server without room serves no upstream."""
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="OOM") as caught:
            store.admit(ask(SHARED))
        assert not isinstance(caught.value, UpstreamStateError)
    finally:
        client.config_set("maxmemory", 0)


def test_connections_never_run_out_by_counting(tmp_path: Path) -> None:
    """After hundreds of attempts that failed, and from hundreds of threads at once, a server that
    is there again answers at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout=5 * SECOND)
    for _ in range(250):
        with pytest.raises(StoreUnavailable, match="ConnectionRefusedError"):
            store.settle(Settlement("api"))
    with PrivateRedis(tmp_path, port=port):
        assert store.settle(Settlement("api")).now
        barrier = threading.Barrier(150)
        done: list[int] = []

        def settle() -> None:
            barrier.wait()
            done.append(store.settle(Settlement("api")).now)

        for _ in range(2):
            threads = [threading.Thread(target=settle) for _ in range(150)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(done) == 300
        store.close()
