"""The least that a Redis user must be allowed, on a real server with exactly these users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy.engine import make_url

from governor.clock import SECOND, SystemClock
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.models import State
from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.errors import StoreUnavailable
from governor.events import Emitter
from governor.policy.limits import Limit
from governor.policy.upstream import UpstreamDeclaration
from governor.producer.load_shedding import LoadShedding
from governor.stores.redis.permissions import Role, acl
from governor.stores.redis.store import RedisStore
from governor.testing.conformance import LimiterStoreConformance, StoreHarness
from governor.testing.conformance_parking import ParkingLotConformance
from tests.deaths import death
from tests.integration.fleet import Fleet, wait_until
from tests.integration.scripted_clock import ScriptedRedis
from tests.servers.worker_process import ROOT

if TYPE_CHECKING:
    from tests.servers.postgres import PrivatePostgres

pytestmark = pytest.mark.redis

ROLES: tuple[Role, ...] = ("worker", "producer", "operator")


@pytest.fixture
def users(redis_url: str) -> Iterator[dict[str, str]]:
    """A URL for each role, and one for a worker that is an operator too."""
    words = {role: acl(role).split() for role in ROLES}
    words["both"] = [*words["worker"], *words["operator"]]
    with redis.Redis.from_url(redis_url) as client:
        for name, allowed in words.items():
            client.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", *allowed)
        yield {name: redis_url.replace("://", f"://{name}:pw@") for name in words}
        client.execute_command("ACL", "DELUSER", *words)


@pytest.fixture
def scripted(redis_url: str, users: dict[str, str]) -> Iterator[ScriptedRedis]:
    with redis.Redis.from_url(redis_url) as client:
        # The clock of the tests is kept in keys of its own.
        client.execute_command("ACL", "SETUSER", "both", "+mget", "~test:*")
    scripted = ScriptedRedis(redis_url, store_url=users["both"])
    yield scripted
    scripted.close()


class TestTheStoreOfSuchUsers(LimiterStoreConformance):
    @pytest.fixture
    def harness(self, scripted: ScriptedRedis) -> StoreHarness:
        return StoreHarness(scripted.store, advance=scripted.advance)


class TestTheLotsOfSuchUsers(ParkingLotConformance):
    @pytest.fixture
    def harness(self, scripted: ScriptedRedis) -> StoreHarness:
        return StoreHarness(scripted.store, advance=scripted.advance)


@pytest.mark.worker
def test_a_worker_and_an_operator_do_all_they_do(
    users: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    """With the worker's user tasks run, wait, are parked and released; with the operator's user
    people look at limits and parked tasks and change them."""
    database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    module = "tests.integration.parking_app"
    people = Fleet(tmp_path, redis_url, users["operator"], database, module=module,
                   backend_url=redis_url)  # fmt: skip
    fleet = Fleet(tmp_path, redis_url, users["worker"], database, module=module,
                  backend_url=redis_url)  # fmt: skip
    try:
        worker = fleet.worker()
        results = [fleet.send("steady", number) for number in range(30)]
        busy = [fleet.send("busy", number, "acct", 0.05) for number in range(6)]
        assert [result.get(timeout=60) for result in (*results, *busy)] == [*range(30), *range(6)]
        assert fleet.stats("released")
        waiting = [fleet.send("hourly", number) for number in range(3)]
        lot = RedisStore(redis_url, timeout=5 * SECOND)
        wait_until(lambda: lot.lots.waiting("hourly")[0] == 3)
        lot.close()
        for command in (
            ["limits", "show", "--json"],
            ["limits", "pause", "steady", "--for", "1m", "--reason", "try"],
            ["limits", "resume", "steady", "--reason", "try"],
            ["limits", "log", "steady", "--json"],
            ["waiting", "--json"],
            ["waiting", "show", waiting[0].id, "--json"],
            ["waiting", "cancel", waiting[1].id, "--reason", "try", "--yes"],
        ):
            done = people.command(*command)
            assert done.returncode == 0, (command, done)
        doctor = json.loads(fleet.command("doctor", "--json").stdout)
        said = {finding["check"]: finding for finding in doctor["findings"]}
        assert said["redis permissions"]["level"] == "ok"
        assert said["redis"]["level"] == "warning"  # INFO is not among what a worker needs
        assert not any(word in worker.log() for word in ("NOPERM", "refused", "not heard"))
    finally:
        people.close()
        fleet.close()


GRANTS = (
    "GRANT SELECT, INSERT, UPDATE ON governor_dead_letters TO {role}",
    "GRANT SELECT, INSERT ON governor_dead_letter_audit TO {role}",
    "GRANT SELECT ON governor_alembic_version TO {role}",
)


@pytest.mark.postgres
def test_a_database_user_writes_and_replays(
    postgres_server: PrivatePostgres, postgres_url: str
) -> None:
    """With these grants deaths are written, looked at and replayed, and the schema is checked."""
    psycopg = pytest.importorskip("psycopg")
    owner = bounded_engine(postgres_url, timeout=10)
    schema.upgrade(owner)
    owner.dispose()
    role, name = "clerk", make_url(postgres_url).database
    with psycopg.connect(
        host="127.0.0.1", port=postgres_server.port, user="postgres", dbname=name, autocommit=True
    ) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        for grant in GRANTS:
            connection.execute(grant.format(role=role))
    engine = bounded_engine(
        f"postgresql://{role}@127.0.0.1:{postgres_server.port}/{name}", timeout=10
    )
    letters = SqlDeadLetters(engine, redact=str, timeout=10)
    row_id = letters.record(death(idempotent=True))
    (found,) = letters.list(Filters())
    claim = letters.claim_replay(
        row_id, found.version, 1, "ann", "why", confirm_not_idempotent=True
    )
    letters.mark_replayed(claim, 2, "ann")
    letters.replay_succeeded(claim.replay_task_id, 3)
    assert letters.get(row_id).state is State.RESOLVED
    assert letters.audit(row_id)
    assert letters.groups() == ()
    assert schema.check(engine).good
    letters.close()
    with psycopg.connect(
        host="127.0.0.1", port=postgres_server.port, user="postgres", dbname=name, autocommit=True
    ) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_the_documentation_has_these_words() -> None:
    """The page on configuration shows what these tests run with."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    for role in ROLES:
        assert f"ACL SETUSER {role} on >PASSWORD {acl(role)}\n" in page
    for grant in GRANTS:
        assert f"{grant.format(role='governor')};\n" in page


def test_a_producer_looks_at_the_lot(users: dict[str, str]) -> None:
    """A producer's user may see whether too many wait, and nothing else."""
    store = RedisStore(users["producer"], timeout=5 * SECOND)
    LoadShedding(store, SystemClock(), Emitter()).check(
        UpstreamDeclaration("api", Limit("1/s"), max_waiting=1), "charge"
    )
    assert store.lots.waiting("api")[:2] == (0, 0)
    with pytest.raises(StoreUnavailable, match="NOPERM"):
        store.in_force("api")
    store.close()
