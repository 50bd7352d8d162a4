"""The Redis store on a real cluster of local processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.policy.decision import Admit, Ask, Charge, ClaimAsk, LeaseCharge, Wait, WindowCharge
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Change
from governor.redis_address import RedisAddress
from governor.stores.redis.client import Server, pool
from governor.stores.redis.store import RedisStore
from governor.testing.redis_server import PrivateRedis

pytestmark = pytest.mark.redis

UPSTREAMS = [f"api-{number}" for number in range(12)]
KINDS = (
    Charge("s", "1000/s", interval=1_000, capacity=1_000_000),
    Charge("m:acct", "60/min", interval=1_000_000, capacity=60_000_000),
    WindowCharge("w", "5 in any 10 s", 5, 10 * SECOND),
    LeaseCharge("in-flight", "2 in flight", 2),
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PrivateRedis]]:
    """Three nodes that share the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(PrivateRedis(tmp_path_factory.mktemp("node"), cluster=True))
            for _ in range(3)
        ]
        clients = [redis.Redis.from_url(server.url) for server in servers]
        for client in clients:
            stack.callback(client.close)
        step = 16_384 // 3 + 1
        for index, client in enumerate(clients):
            last = min((index + 1) * step, 16_384) - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", index * step, last)
            if index:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        deadline = time.monotonic() + 60
        while not all(_joined(client) for client in clients):
            assert time.monotonic() < deadline, "the cluster did not come together"
            time.sleep(0.05)
        yield servers


def _joined(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3


@pytest.fixture
def store(nodes: list[PrivateRedis]) -> Iterator[RedisStore]:
    for node in nodes:
        with redis.Redis.from_url(node.url) as client:
            client.flushall()
    store = RedisStore(nodes[0].url, timeout=10 * SECOND)
    yield store
    store.close()


def ask(upstream: str, task: str = "t") -> Ask:
    claim = ClaimAsk(task, 0, "m", f"{task}-delivery", 30 * SECOND, 3600 * SECOND)
    return Ask(
        upstream, KINDS, 50_000, 30 * SECOND, 30 * SECOND, 3600 * SECOND, claim=claim,
        lease=30 * SECOND,
    )  # fmt: skip


def test_every_upstream_is_decided_where_it_lives(store: RedisStore) -> None:
    """All kinds of limits of one upstream are decided in one call on one node, whichever node was
    given; the upstreams are spread over the nodes."""
    for upstream in UPSTREAMS:
        first = store.admit(ask(upstream))
        # Nothing is known of the time before: a bucket starts full, a window is spaced evenly.
        assert isinstance(first, Wait), upstream
        assert first.limit == "5 in any 10 s"
    assert len(set(store._client.homes.values())) >= 2
    looks = [store.look(upstream, KINDS) for upstream in UPSTREAMS]
    assert all(len(look.state.meters["w"].times) == 1 for look in looks)  # type: ignore[union-attr]


def test_several_upstreams_in_one_question(store: RedisStore) -> None:
    """Decisions asked for together come back in order, from wherever they were made."""
    bucket = (Charge("s", "1/s", interval=SECOND, capacity=SECOND),)
    asks = [Ask(u, bucket, 0, 30 * SECOND, 0, 3600 * SECOND) for u in UPSTREAMS]
    assert [type(answer) for answer in store.admit_many(asks)] == [Wait] * len(UPSTREAMS)
    slots = [answer.until - answer.now for answer in store.admit_many(asks)]  # type: ignore[union-attr]
    assert all(SECOND < slot <= 2 * SECOND for slot in slots)


def test_settling_and_changing_follow_the_upstream(store: RedisStore) -> None:
    """A settlement, a change and its record reach the node that keeps the upstream."""
    for upstream in UPSTREAMS:
        store.settle(Settlement(upstream, pause=5 * SECOND))
        changed = store.change(Change(upstream, "resume", "", "", "ann", "over"))
        assert store.in_force(upstream) == changed
        free = Ask(upstream, (), 0, 0, 0, SECOND, version=changed.version)
        assert isinstance(store.admit(free), Admit)
        assert store.look(upstream, ()).log[0]["why"] == "over"
        assert store.settle(Settlement(upstream, "x", ClaimAction.FINISH)).pause == 0


def test_nodes_without_a_known_endpoint_are_on_the_same_host(
    nodes: list[PrivateRedis], store: RedisStore
) -> None:
    """A cluster that tells ports only, as behind a port mapping, is followed."""
    clients = [redis.Redis.from_url(node.url) for node in nodes]
    try:
        for client in clients:
            client.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
        for upstream in UPSTREAMS:
            assert store.settle(Settlement(upstream)).now
        assert {host for host, _ in store._client.homes.values()} == {"127.0.0.1"}
        assert len(set(store._client.homes.values())) >= 2
    finally:
        for client in clients:
            client.config_set("cluster-preferred-endpoint-type", "ip")
            client.close()


def test_an_upstream_whose_node_is_gone_is_asked_about_elsewhere(
    nodes: list[PrivateRedis], store: RedisStore
) -> None:
    """After a node did not answer, another one is asked who keeps the upstream now: nothing is
    remembered for good."""
    for upstream in UPSTREAMS:
        store.settle(Settlement(upstream))
    upstream, (host, port) = next(iter(store._client.homes.items()))
    store._client.homes[upstream] = ("127.0.0.1", 1)
    with pytest.raises(StoreUnavailable):
        store.settle(Settlement(upstream))
    assert store.settle(Settlement(upstream)).now
    assert store._client.homes[upstream] == (host, port)
    # The same where the server that is configured kept it.
    own = next(name for name in UPSTREAMS if name not in store._client.homes)
    store._client.seed = Server(pool(RedisAddress.of("redis://127.0.0.1:1"), 1))
    with pytest.raises(StoreUnavailable):
        store.settle(Settlement(own))
    assert store.settle(Settlement(own)).now
