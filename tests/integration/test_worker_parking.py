"""What must wait long waits in the parking lot, outside broker and worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from kombu.transport.native_delayed_delivery import MAX_LEVEL, level_name

from governor.ports import Change, Reason
from governor.stores.redis.store import RedisStore
from governor.testing.redis_server import PrivateRedis
from tests.integration.fleet import PATIENT, SECOND, Fleet, pause_upstream, wait_until
from tests.servers.worker_process import WorkerProcess

pytestmark = pytest.mark.redis

MODULE = "tests.integration.parking_app"
TIMEOUT = 40
"""More than tasks are released before their slots, and may begin after them, together."""


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(
        broker_url: str | None = None, env: dict[str, str] | None = None, **conf: Any
    ) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        url = broker_url or redis_url
        made.append(
            Fleet(tmp_path, url, redis_url, database, module=MODULE, conf=conf, **(env or {}))
        )
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def parked(fleet: Fleet, upstream: str) -> int:
    """How many wait in the lot now."""
    store = RedisStore(fleet.limiter_url, timeout=PATIENT * SECOND)
    try:
        return store.lots.waiting(upstream)[0]
    finally:
        store.close()


def unpause(fleet: Fleet, upstream: str) -> None:
    store = RedisStore(fleet.limiter_url, timeout=PATIENT * SECOND)
    store.change(Change(upstream, "resume", "", "", "test", "go on"))
    store.close()


def numbers(fleet: Fleet, task: str) -> list[int]:
    """Those that were called, in order."""
    return [line["number"] for line in fleet.ledger(task)]


@pytest.mark.parametrize(
    ("pool", "broker"),
    [
        ("prefork", "redis_url"),
        ("threads", "redis_url"),
        ("gevent", "redis_url"),
        ("solo", "redis_url"),
        pytest.param("prefork", "rabbitmq_url", marks=pytest.mark.rabbitmq),
    ],
)
def test_a_lane_is_served_in_order_at_its_rate(
    make_fleet: Callable[..., Fleet], pool: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """In every pool and on both brokers parked tasks run once, in the order in which they came,
    not faster than their limit."""
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker(pool, concurrency=1)
    results = [fleet.send("steady", number) for number in range(30)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(30))
    lines = fleet.ledger("steady")
    assert [line["number"] for line in lines] == list(range(30))
    assert lines[-1]["at"] - lines[0]["at"] >= 29 / 20 - 0.1
    assert sum(line["deferrals"] >= 1 for line in lines) >= 20
    wait_until(lambda: fleet.stats("released"), lambda released: released >= 20)
    assert parked(fleet, "steady") == 0


def test_a_tenant_may_be_any_text(make_fleet: Callable[..., Fleet]) -> None:
    """Tasks of a tenant whose name no encoding knows are parked and run like others'."""
    fleet = make_fleet()
    fleet.worker(concurrency=1)
    pause_upstream(fleet.limiter_url, "tenants", 3600)
    for number in range(5):
        fleet.send("tenants", number, "a\ud800b")
    wait_until(lambda: parked(fleet, "tenants"), lambda waiting: waiting == 5)
    listed = fleet.command("waiting", "--by", "tenant")
    assert r"a\ud800b" in listed.stdout
    unpause(fleet, "tenants")
    wait_until(lambda: numbers(fleet, "tenants"), lambda found: found == [0, 1, 2, 3, 4])


def test_what_waits_is_in_the_lot_alone(make_fleet: Callable[..., Fleet], redis_url: str) -> None:
    """While tasks are parked neither broker nor worker holds a message of theirs."""
    fleet = make_fleet()
    fleet.worker()
    pause_upstream(redis_url, "steady", 3600)
    for number in range(100):
        fleet.send("steady", number)
    wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 100)
    with redis.Redis.from_url(redis_url) as client:
        wait_until(lambda: client.hlen("unacked"), lambda noted: noted == 0)
        assert client.llen("celery") == 0
    unpause(fleet, "steady")
    wait_until(lambda: len(numbers(fleet, "steady")), lambda called: called == 100)
    assert set(numbers(fleet, "steady")[:5]) <= set(range(10))


def test_a_small_tenant_is_served_in_its_turn(make_fleet: Callable[..., Fleet]) -> None:
    """Two hundred tasks of one tenant make another's five wait for one turn each, and a tenant of
    weight three gets three turns for one."""
    fleet = make_fleet()
    fleet.worker(concurrency=1)
    pause_upstream(fleet.limiter_url, "tenants", 3600)
    for account, how_many in (("big", 120), ("heavy", 60), ("small", 5)):
        for number in range(how_many):
            fleet.send("tenants", number, account)
    wait_until(lambda: parked(fleet, "tenants"), lambda waiting: waiting == 185)
    unpause(fleet, "tenants")
    lines = wait_until(lambda: fleet.ledger("tenants"), lambda called: len(called) == 185)
    order = [line["account"] for line in lines]
    assert order[:25].count("small") == 5
    assert 35 <= order[:60].count("heavy") <= 45


def test_revoked_and_expired_tasks_leave_the_lot(make_fleet: Callable[..., Fleet]) -> None:
    """A parked task that is revoked is announced as such at once; one that expires becomes a dead
    letter. Neither calls, and the next one is not held up."""
    fleet = make_fleet()
    fleet.worker()
    pause_upstream(fleet.limiter_url, "steady", 3600)
    expiring = fleet.send("steady", 1, expires=2)
    revoked = fleet.send("steady", 2)
    last = fleet.send("steady", 3)
    wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 3)
    revoked.revoke()
    wait_until(lambda: revoked.state, lambda state: state == "REVOKED", TIMEOUT)
    (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
    assert (row.task_id, row.reason) == (expiring.id, Reason.EXPIRED)
    wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 1)
    unpause(fleet, "steady")
    assert last.get(timeout=TIMEOUT) == 3
    assert numbers(fleet, "steady") == [3]


def test_a_raised_limit_lets_parked_tasks_go_at_once(make_fleet: Callable[..., Fleet]) -> None:
    """Who waits for an hour goes when the limit is raised."""
    fleet = make_fleet()
    fleet.worker()
    results = [fleet.send("hourly", number) for number in range(10)]
    wait_until(lambda: parked(fleet, "hourly"), lambda waiting: waiting >= 9)
    done = fleet.command(
        "limits", "set", "hourly", "1/h", "--rate", "100/s", "--reason", "agreed", "--yes"
    )
    assert done.returncode == 0, done.stderr
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(10))


def test_who_is_parked_beyond_its_patience_is_a_dead_letter(
    make_fleet: Callable[..., Fleet],
) -> None:
    """Max_wait holds in the lot as it does elsewhere, though the limit has no room for long."""
    fleet = make_fleet()
    fleet.worker()
    pause_upstream(fleet.limiter_url, "brief", 3600)
    result = fleet.send("brief", 1)
    (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
    assert (row.task_id, row.reason) == (result.id, Reason.DEFERRAL_BUDGET_EXHAUSTED)
    assert not numbers(fleet, "brief")


def test_urgent_work_has_its_reserve(make_fleet: Callable[..., Fleet]) -> None:
    """While a hundred tasks use up all of the rate that is theirs, an urgent one goes within two
    slots of the reserve."""
    fleet = make_fleet()
    fleet.worker(concurrency=1)
    for number in range(100):
        fleet.send("reserved", number)
    wait_until(lambda: parked(fleet, "reserved"), lambda waiting: waiting > 60)
    before = len(numbers(fleet, "reserved"))
    assert fleet.send("reserved", 1_000, priority=9).get(timeout=TIMEOUT) == 1_000
    since = numbers(fleet, "reserved")[before:].index(1_000)
    # Fifteen ordinary ones a second: in two slots of five a second there go six of them.
    assert since <= 8


def test_places_that_come_free_are_used_by_who_is_parked(
    make_fleet: Callable[..., Fleet],
) -> None:
    """Two at a time for each account, over two workers, and nobody waits for a lease to run out."""
    fleet = make_fleet(governor_claim_lease=600)
    for _ in range(2):
        fleet.worker(concurrency=4)
    for number in range(12):
        for account in ("a", "b"):
            fleet.send("busy", number, account, 0.2)
    lines = wait_until(lambda: fleet.ledger("busy"), lambda called: len(called) == 24, TIMEOUT)
    for account in ("a", "b"):
        began = sorted(line["at"] for line in lines if line["account"] == account)
        # The third of any three begins after one of them has ended.
        assert all(third - first >= 0.19 for first, third in zip(began, began[2:], strict=False))
        assert began[-1] - began[0] < 10


@pytest.mark.parametrize("task", ["steady", "steady_once"])
def test_a_killed_worker_loses_no_parked_task(make_fleet: Callable[..., Fleet], task: str) -> None:
    """SIGKILL between release and acknowledgement: what was released waits again. An idempotent
    task runs again; of another that had begun nobody knows whether it called."""
    fleet = make_fleet(governor_claim_lease=1)
    victim: WorkerProcess = fleet.worker(concurrency=1)
    pause_upstream(fleet.limiter_url, "steady", 3600)
    sent = [fleet.send(task, 0, "", 30.0)] + [fleet.send(task, number) for number in range(1, 20)]
    wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 20)
    unpause(fleet, "steady")
    wait_until(lambda: numbers(fleet, task), lambda called: called == [0])
    victim.kill()
    fleet.worker(concurrency=2)
    wait_until(lambda: set(numbers(fleet, task)), lambda called: len(called) == 20, TIMEOUT)
    if task == "steady":
        wait_until(lambda: numbers(fleet, task).count(0), lambda called: called == 2, TIMEOUT)
        assert not fleet.dead()
    else:
        (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
        assert (row.task_id, row.reason) == (sent[0].id, Reason.OUTCOME_UNKNOWN)
        assert numbers(fleet, task).count(0) == 1
    assert all(numbers(fleet, task).count(number) == 1 for number in range(1, 20))


def test_parked_tasks_survive_a_restart_of_the_store(
    make_fleet: Callable[..., Fleet], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With an append-only file the lot outlives its Redis. While that is away new tasks stay with
    the broker; none is lost, and none runs twice."""
    with PrivateRedis(tmp_path_factory.mktemp("limiter"), appendonly=True) as limiter:
        fleet = make_fleet(governor_redis_url=limiter.url)
        fleet.limiter_url = limiter.url
        worker = fleet.worker()
        pause_upstream(limiter.url, "steady", 3600)
        for number in range(20):
            fleet.send("steady", number)
        wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 20)
        limiter.kill()
        for number in range(20, 25):
            fleet.send("steady", number)
        worker.wait_for_log("Until it does, each upstream's store_down holds", TIMEOUT)
        limiter.restart()
        wait_until(lambda: parked(fleet, "steady"), lambda waiting: waiting == 25)
        unpause(fleet, "steady")
        wait_until(lambda: len(numbers(fleet, "steady")), lambda called: called == 25, TIMEOUT)
        assert sorted(numbers(fleet, "steady")) == list(range(25))
        assert worker.running


def test_what_was_parked_under_other_limits_is_adopted(make_fleet: Callable[..., Fleet]) -> None:
    """After a deployment that declares another kind of limit, tasks that were parked under the one
    before wait under the new one, and each runs once."""
    fleet = make_fleet(env={"SHIFTING": "1/h"})
    worker = fleet.worker()
    for number in range(70):
        fleet.send("shifting", number)
    wait_until(lambda: parked(fleet, "shifting"), lambda waiting: waiting >= 69)
    assert worker.terminate() == 0
    deployed = make_fleet(env={"SHIFTING": "200/s"})
    deployed.worker(concurrency=1)
    called = wait_until(
        lambda: numbers(deployed, "shifting"), lambda called: len(called) == 70, TIMEOUT
    )
    # A task that is late for its slot may be overtaken.
    assert sorted(called) == list(range(70))


@pytest.mark.rabbitmq
def test_a_deferred_task_waits_in_a_broker_that_can_delay(
    make_fleet: Callable[..., Fleet], rabbitmq_url: str
) -> None:
    """With quorum queues and a topic exchange no worker holds a task that waits in the broker. It
    comes back as the message it was, waits a second time, and runs once."""
    topic = {
        "task_default_queue": "orders",
        "task_default_queue_type": "quorum",
        "task_default_exchange": "shop",
        "task_default_exchange_type": "topic",
        "task_default_routing_key": "shop.orders",
        "broker_native_delayed_delivery_queue_type": "classic",
    }
    fleet = make_fleet(rabbitmq_url, governor_max_countdown=6, **topic)
    fleet.app.conf.update(topic)
    worker = fleet.worker(concurrency=1)
    result = fleet.send("deferred", 1)
    wait_until(lambda: fleet.stats("deferred"), lambda deferrals: deferrals == 1)
    inspect = fleet.app.control.inspect([worker.name], timeout=PATIENT)
    assert inspect.scheduled() == inspect.reserved() == inspect.active() == {worker.name: []}
    assert delayed(rabbitmq_url) == 1
    assert result.get(timeout=TIMEOUT) == 1
    (line,) = fleet.ledger("deferred")
    assert (line["deferrals"], line["route"]) == (2, ["shop", "shop.orders"])
    assert delayed(rabbitmq_url) == 0


def delayed(rabbitmq_url: str) -> int:
    """Messages in the delay queues of RabbitMQ now."""
    with Connection(rabbitmq_url) as connection:
        channel = connection.default_channel
        names = (level_name(level) for level in range(MAX_LEVEL + 1))
        return sum(channel.queue_declare(name, passive=True).message_count for name in names)


@pytest.mark.parametrize(
    "broker", ["redis_url", pytest.param("rabbitmq_url", marks=pytest.mark.rabbitmq)]
)
def test_a_dead_workers_claims_cost_the_others_no_rate(
    make_fleet: Callable[..., Fleet], broker: str, request: pytest.FixtureRequest
) -> None:
    """While tasks of a killed worker wait for the ends of its leases, all others have the whole
    rate; then each of the dead is a row, and was called once."""
    url = request.getfixturevalue(broker)
    fleet = make_fleet(url, governor_claim_lease=20)
    killed = fleet.worker(concurrency=4)
    begun = []
    for sent in range(1, 5):
        begun.append(fleet.send("steady_once", -1, "", 60.0))
        lines = wait_until(lambda: fleet.ledger("steady_once"), lambda at, n=sent: len(at) == n)
        # Until the next one need not wait for its slot: parked, it would come back from the lot.
        wait_until(lambda at=lines[-1]["at"]: time.monotonic() - at, lambda gone: gone > 0.1)
    killed.kill()
    if broker == "redis_url":
        # As when the visibility timeout is over.
        with Connection(url, transport_options={"visibility_timeout": 0}) as connection:
            connection.default_channel.qos.restore_visible(num=100)
    fleet.worker(concurrency=4)
    # They are back, and have met the claims.
    wait_until(lambda: fleet.stats("held"), lambda held: held >= 4)
    for number in range(200):
        fleet.send("steady", number)
    lines = wait_until(lambda: fleet.ledger("steady"), lambda lines: len(lines) == 200)
    assert lines[-1]["at"] - lines[0]["at"] < 1.1 * 200 / 20
    rows = wait_until(fleet.dead, lambda rows: len(rows) == 4)
    assert {row.task_id for row in rows} == {result.id for result in begun}
    assert {row.reason for row in rows} == {Reason.OUTCOME_UNKNOWN}
    assert len(fleet.ledger("steady_once")) == 4
