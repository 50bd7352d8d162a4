"""What must hold when a part goes away in the middle: nothing lost, nothing forbidden doubled.

Each test injects the fault for real and counts calls in the ledger that the bodies write.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from governor.deadletter.models import State
from governor.keys import DEFAULT_PREFIX, state_key
from governor.ports import Reason
from governor.testing.redis_server import PrivateRedis
from tests.integration.fleet import Fleet, assert_within_limit, pause_upstream, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.worker]

LEASE = {"governor_claim_lease": 2}
QUICK_RESTORE = {
    "broker_transport_options": {
        "visibility_timeout": 15,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    **LEASE,
}
TIMEOUT = 40


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A broker of this test's own, to be taken down."""
    with PrivateRedis(tmp_path_factory.mktemp("broker"), appendonly=True) as server:
        yield server


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(broker_url: str | None = None, **options: Any) -> Fleet:
        database = options.pop("database", f"sqlite:///{tmp_path / 'dead.sqlite'}")
        made.append(Fleet(tmp_path, broker_url or redis_url, redis_url, database, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def publish_at_rest(fleet: Fleet, publish: Callable[[], Any], messages: int) -> None:
    """Publish on a Redis broker so that no message is under way when the fault comes.

    kombu takes a message off its list first and notes it as unacknowledged a moment later;
    what it loses in between, it loses of any task. So all are noted before the first one may
    run, which is eight seconds from now.
    """
    pause_upstream(fleet.limiter_url, "api", 8)
    publish()
    with redis.Redis.from_url(fleet.broker_url) as client:
        wait_until(lambda: client.hlen("unacked"), lambda noted: noted == messages)


def running(fleet: Fleet) -> int:
    """Bodies that the main process of one worker knows to have begun. Told to stop before it has
    heard of a body, Celery lets it end and forgets that it did."""
    active = fleet.app.control.inspect(timeout=TIMEOUT, limit=1).active() or {}
    return sum(map(len, active.values()))


def runs(fleet: Fleet, task: str) -> Counter[int]:
    """How often each number was called."""
    return Counter(call["number"] for call in fleet.ledger(task))


@pytest.mark.parametrize("task", ["call", "call_once"])
@pytest.mark.parametrize(
    ("hold", "parking", "counter"),
    [(30, "store", "waiting"), (0, "broker", "deferred"), (0, "store", "parked")],
)
def test_a_warm_shutdown_while_tasks_wait_loses_none(
    make_fleet: Callable[..., Fleet], task: str, hold: int, parking: str, counter: str
) -> None:
    """Held, deferred and parked tasks of a worker that is told to stop run in the next one, once
    each, and what runs is finished."""
    fleet = make_fleet(RATE="20/s", BURST="2", PARKING=parking, conf={"governor_hold": hold})
    worker = fleet.worker()
    fleet.send(task, 0, 3.0)
    wait_until(lambda: running(fleet), lambda begun: begun == 1)

    def publish() -> None:
        for number in range(1, 60):
            fleet.send(task, number)

    if counter == "parked":
        pause_upstream(fleet.limiter_url, "api", 8)
        publish()
    else:
        publish_at_rest(fleet, publish, 60)
    wait_until(lambda: fleet.stats(counter), lambda waiting: waiting >= 59)
    assert worker.terminate() == 0
    fleet.worker()
    wait_until(lambda: runs(fleet, task), lambda called: len(called) == 60)
    assert set(runs(fleet, task).values()) == {1}
    assert not fleet.dead()


@pytest.mark.parametrize(
    "broker_url", ["redis_url", pytest.param("rabbitmq_url", marks=pytest.mark.rabbitmq)]
)
def test_a_killed_worker_loses_nothing_and_doubles_no_forbidden_call(
    make_fleet: Callable[..., Fleet], broker_url: str, request: pytest.FixtureRequest
) -> None:
    """SIGKILL to one of two workers: idempotent calls all happen; the others at most once, and
    what was in the middle is a dead letter. On RabbitMQ, tasks are being deferred meanwhile."""
    conf = {**QUICK_RESTORE, "governor_hold": 30} if broker_url == "redis_url" else LEASE
    url = request.getfixturevalue(broker_url)
    fleet = make_fleet(url, RATE="40/s", BURST="2", conf=conf)
    victim = fleet.worker()
    fleet.worker()
    sent = set()

    def publish() -> None:
        for number in range(40):
            fleet.send("call", number, 0.05)
            sent.add(fleet.send("call_once", number, 0.05).id)

    if broker_url == "redis_url":
        publish_at_rest(fleet, publish, 80)
    else:
        publish()
    wait_until(lambda: len(fleet.ledger()), lambda called: called >= 20)
    victim.kill()
    wait_until(lambda: len(runs(fleet, "call")), lambda called: called == 40, TIMEOUT)

    def ended() -> set[str | None]:
        # Killed between its admission and its first line, a body leaves nothing but its row.
        called = {call["id"] for call in fleet.ledger("call_once")}
        return called | {row.task_id for row in fleet.dead()}

    wait_until(lambda: ended() >= sent, timeout=TIMEOUT)
    assert set(runs(fleet, "call_once").values()) == {1}
    rows = fleet.dead()
    assert {row.reason for row in rows} <= {Reason.OUTCOME_UNKNOWN}
    assert len(rows) <= 2


def test_a_broker_restart_in_the_middle_loses_nothing(
    make_fleet: Callable[..., Fleet], broker: PrivateRedis
) -> None:
    """The broker goes away and comes back while tasks wait: every task runs. (kombu 5.7 ends a
    worker that loses a Redis broker while messages are unacknowledged, ours or anybody's:
    whatever supervises it starts it again, as this test does.)"""
    conf = {**QUICK_RESTORE, "governor_hold": 30, "broker_connection_max_retries": None}
    fleet = make_fleet(broker.url, RATE="20/s", BURST="2", conf=conf)
    worker = fleet.worker()
    publish_at_rest(fleet, lambda: [fleet.send("call", number) for number in range(40)], 40)
    wait_until(lambda: len(fleet.ledger("call")), lambda called: called >= 5)
    broker.restart()
    worker.wait_for_log("Connection to broker lost")
    fleet.worker()
    wait_until(lambda: len(runs(fleet, "call")), lambda called: called == 40, TIMEOUT)


def test_the_limiter_forgetting_everything_gives_no_second_burst(
    make_fleet: Callable[..., Fleet], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """FLUSHALL after a burst: the rate is kept, because a forgotten bucket starts full."""
    with (
        PrivateRedis(tmp_path_factory.mktemp("limiter")) as limiter,
        redis.Redis.from_url(limiter.url) as client,
    ):
        conf = {"governor_redis_url": limiter.url, "governor_hold": 0.1}
        # What is parked is forgotten as well.
        fleet = make_fleet(RATE="10/s", BURST="30", PARKING="broker", conf=conf)
        # Known for long, the upstream has its whole burst.
        client.hset(state_key(DEFAULT_PREFIX, "api"), "since", 1)
        fleet.worker()
        for number in range(60):
            fleet.send("call", number)
        wait_until(lambda: len(fleet.ledger("call")), lambda called: called >= 29)
        client.flushall()
        wait_until(lambda: len(runs(fleet, "call")), lambda called: called == 60, TIMEOUT)
    # Slots within governor_hold were charged and are forgotten.
    assert_within_limit(fleet.ledger("call"), burst=30, rate=10, lost=1)


def test_a_database_that_is_away_costs_no_dead_letter(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """While the database cannot be opened deaths go to disk; when it is back they are drained,
    each once."""
    folder, hidden = tmp_path / "database", tmp_path / "hidden"
    folder.mkdir()
    fleet = make_fleet(database=f"sqlite:///{folder / 'dead.sqlite'}")
    fleet.dead_letters.close()
    folder.rename(hidden)  # nothing can be opened there now
    worker = fleet.worker()
    sent = {fleet.send("fragile").id for _ in range(3)}
    wait_until(lambda: list((tmp_path / "spill").glob("*.death")), lambda files: len(files) == 3)
    assert fleet.send("ungoverned", 1).get(timeout=TIMEOUT) == 1
    hidden.rename(folder)
    rows = wait_until(fleet.dead, lambda rows: len(rows) == 3, TIMEOUT)
    assert {row.task_id for row in rows} == sent
    wait_until(lambda: list((tmp_path / "spill").glob("*")), lambda files: not files)
    assert worker.running


def test_a_refused_deferral_keeps_the_task(
    make_fleet: Callable[..., Fleet], broker: PrivateRedis
) -> None:
    """While the broker refuses to take messages, over-limit tasks stay unacknowledged; when it
    takes them again, each runs."""
    fleet = make_fleet(broker.url, RATE="5/s", PARKING="broker", conf={"governor_hold": 0})
    worker = fleet.worker()
    for number in range(10):
        # Long enough for all to be fetched before the broker refuses: fetching writes, too.
        fleet.send("call", number, countdown=6)
    with redis.Redis.from_url(broker.url) as client:
        wait_until(lambda: client.hlen("unacked"), lambda fetched: fetched == 10)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        worker.wait_for_log("not deferred", TIMEOUT)
        client.config_set("maxmemory", 0)
    wait_until(lambda: len(runs(fleet, "call")), lambda called: called == 10, TIMEOUT)
    assert worker.running
    assert not fleet.dead()


def test_a_soft_stop_by_ctrl_c_twice_loses_nothing(make_fleet: Callable[..., Fleet]) -> None:
    """A cold shutdown leaves what runs to the next worker, or to the dead letters."""
    fleet = make_fleet(RATE="1000/s", BURST="100", conf=QUICK_RESTORE)
    worker = fleet.worker()
    fleet.send("call", 1, 60.0)
    fleet.send("call_once", 1, 60.0)
    wait_until(lambda: len(fleet.ledger()), lambda called: called == 2)
    wait_until(lambda: running(fleet), lambda begun: begun == 2)
    worker.signal(signal.SIGQUIT)
    worker.wait(TIMEOUT)
    fleet.worker()
    wait_until(lambda: runs(fleet, "call")[1], lambda called: called == 2, TIMEOUT)
    rows = wait_until(fleet.dead, timeout=TIMEOUT)
    assert [row.reason for row in rows] == [Reason.OUTCOME_UNKNOWN]
    assert runs(fleet, "call_once") == {1: 1}


def test_a_replay_runs_once_and_resolves_its_row(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """A dead letter that is replayed runs under its idempotency key and becomes resolved."""
    fleet = make_fleet()
    fleet.worker()
    needed = tmp_path / "needed"
    sent = fleet.send("needs", str(needed))
    (row,) = wait_until(fleet.dead)
    refused = fleet.command("dead", "replay", row.id, "--reason", "deployed", "--yes")
    assert refused.returncode == 3, refused.stderr
    needed.touch()
    replayed = fleet.command(
        "dead", "replay", row.id, "--reason", "deployed", "--yes", "--confirm-not-idempotent",
        "--json",
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stderr
    replay_id = json.loads(replayed.stdout)["replayed"][row.id]
    wait_until(lambda: fleet.dead_letters.get(row.id).state == State.RESOLVED)
    calls = fleet.ledger("needs")
    assert [call["id"] for call in calls] == [sent.id, replay_id]
    assert {call["key"] for call in calls} == {sent.id}
    again = fleet.command("dead", "replay", row.id, "--reason", "twice", "--yes")
    assert again.returncode == 5, again.stderr
    assert len(fleet.ledger("needs")) == 2


@pytest.mark.rabbitmq
@pytest.mark.parametrize("task", ["call", "call_once"])
def test_workers_that_are_killed_again_and_again_lose_no_parked_task(
    make_fleet: Callable[..., Fleet], rabbitmq_url: str, task: str
) -> None:
    """SIGKILL at five moments of parking, releasing and running: what was published has succeeded,
    or is a dead letter whose outcome nobody knows, and no call that must not be made twice was."""
    # On a Redis broker kombu itself loses a message that it has taken and not noted yet.
    fleet = make_fleet(rabbitmq_url, RATE="100/s", conf={**LEASE, "governor_hold": 0})
    sent = {fleet.send(task, number).id: number for number in range(300)}
    for reached in (0, 40, 80, 120, 160):
        victim = fleet.worker()
        wait_until(lambda: len(runs(fleet, task)), lambda n, least=reached: n >= least, TIMEOUT)
        victim.kill()
    fleet.worker()

    def ended() -> set[int]:
        return {*runs(fleet, task), *(sent[row.task_id or ""] for row in fleet.dead())}

    wait_until(ended, lambda numbers: len(numbers) == 300, TIMEOUT)
    assert {row.reason for row in fleet.dead()} <= {Reason.OUTCOME_UNKNOWN}
    if task == "call":
        assert not fleet.dead()
    else:
        assert set(runs(fleet, task).values()) == {1}
