"""``governor limits`` and ``governor explain`` on a real Redis and a real worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from governor import Concurrency, GovernedTask, Governor, Limit, Quota, Upstream, Window
from governor.admission.limits_in_force import LimitsInForce
from governor.cli.environment import Environment
from governor.cli.main import governor as command
from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.policy.decision import Admit, Ask
from governor.policy.settlement import Settlement
from governor.stores.redis.store import RedisStore
from governor.worker.inspect import COMMAND
from tests.servers.worker_process import WorkerProcess

pytestmark = pytest.mark.redis

WHY = ("--reason", "incident 7")
WAITING = """
from types import SimpleNamespace
from celery import Celery
import governor.worker.inspect

app = Celery("waiting", set_as_current=False)
entry = {"task_id": "t1", "task": "charge", "upstream": "api", "limit": "100/s", "where": "held",
         "until": 1_767_225_600_000_000, "since": None, "deferrals": 0, "reserved": []}
app.governor = SimpleNamespace(dispatcher=SimpleNamespace(waiting=lambda: [entry]))
"""


class People:
    """An application on a Redis, and its command line."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        database = f"sqlite:///{folder / 'dead.sqlite'}"
        engine = bounded_engine(database)
        schema.upgrade(engine)
        engine.dispose()
        self.app = Celery("people", broker=redis_url, set_as_current=False)
        self.app.conf.governor_database_url = database
        self.governor = Governor(self.app)
        api = Upstream(
            "api",
            Limit("100/s", burst=20),
            Limit("25/s", burst=5, per="account"),
            Window(10, per_seconds=60),
            Quota(10_000_000, each="day"),
            Concurrency(4),
        )

        @self.app.task(shared=False, base=GovernedTask, upstream=api, name="charge")
        def charge(account: str) -> None: ...

        self.governor.store.settle(Settlement("api"))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, list(arguments), obj=self)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def admitted(self, account: str) -> bool:
        """Whether a worker that knows the changes may call now."""
        store = self.governor.store
        in_force = LimitsInForce(store)
        in_force.refresh("api")
        governance = self.governor.governance("charge")
        assert governance is not None
        charges = in_force.plan(governance.plan).charges((account,), {})[4:]
        keys = governance.plan.charges((account,), {})
        ask = Ask(
            "api", charges, 0, 0, 0, 30 * 86_400 * SECOND, holder="h", lease=SECOND,
            version=in_force.version("api"), not_before=in_force.not_before("api", keys),
        )  # fmt: skip
        return isinstance(store.admit(ask), Admit)


@pytest.fixture
def people(redis_url: str, tmp_path: Path) -> Iterator[People]:
    made = People(redis_url, tmp_path)
    yield made
    made.governor.store.close()
    made.governor.dead_letters.close()
    made.app.close()


def test_set_and_reset(people: People) -> None:
    """New numbers are in force for whoever asks next, and the declared ones after a reset."""
    limits = {limit["name"]: limit for limit in people.json("limits", "api")[0]["limits"]}
    assert limits["10 in any 60 s"]["limit"] == 10
    done = people.run(
        "limits", "set", "api", "100/s", "--rate", "50/s", "--burst", "10", "--yes", *WHY
    )
    assert done.exit_code == 0, done.output
    (limit, *_) = people.json("limits", "api")[0]["limits"]
    assert limit["in_force"] == {"rate": "50/s", "burst": 10}
    assert limit["limit"] == 7  # a burst of 10 less 50 ms of 50/s
    assert limit["changed"]["why"] == "incident 7"
    assert people.run("limits", "reset", "api", "100/s", *WHY).exit_code == 0
    assert people.run("limits", "reset", "api", "100/s", *WHY).exit_code == 4
    assert people.json("limits", "api")[0]["limits"][0]["changed"] is None


def test_pause_and_resume(people: People) -> None:
    """Nobody is admitted while the upstream is paused, and only others while one key is."""
    assert people.admitted("a")
    assert people.run("limits", "pause", "api", "--for", "1h", *WHY).exit_code == 0
    assert not people.admitted("a")
    (view,) = people.json("limits", "api")
    assert view["pauses"][0]["why"] == "incident 7"
    assert people.run("limits", "resume", "api", *WHY).exit_code == 0
    assert people.admitted("a")
    key = ("--key", "account=a")
    assert people.run("limits", "pause", "api", *key, "--for", "1h", *WHY).exit_code == 0
    assert [people.admitted("a"), people.admitted("b")] == [False, True]
    assert people.run("limits", "resume", "api", *key, *WHY).exit_code == 0
    assert people.admitted("a")


def test_the_log(people: People) -> None:
    """Who, when and why is kept in Redis, newest first."""
    assert people.run("limits", "log", "api").exit_code == 4
    people.run("limits", "pause", "api", "--for", "1h", *WHY)
    people.run("limits", "resume", "api", "--reason", "over")
    latest, first = people.json("limits", "log", "api")
    assert [latest["what"], latest["why"]] == ["resume", "over"]
    assert [first["what"], first["why"]] == ["pause", "incident 7"]
    # Both may be of one millisecond, which is as much as is shown.
    assert latest["at"] >= first["at"]
    assert "@" in first["by"]


def test_a_redis_that_is_away(people: People) -> None:
    """It is exit code 6, within the time that a call may take."""
    people.governor.store.close()
    people.governor.__dict__["store"] = RedisStore("redis://127.0.0.1:1/0")
    assert people.run("limits").exit_code == 6
    assert people.run("limits", "pause", "api", *WHY).exit_code == 6


def test_a_broker_that_is_away(people: People) -> None:
    """Workers that cannot be asked are an error within seconds, not a wait for ever."""
    people.app.conf.broker_url = "redis://127.0.0.1:1/0"
    away = people.run("explain", "t1")
    assert away.exit_code == 6
    assert "could not be asked" in away.stderr


@pytest.mark.worker
def test_a_worker_is_asked(people: People, redis_url: str, tmp_path: Path) -> None:
    """The worker's dispatcher answers the broadcast, and the limit's numbers are added here."""
    (tmp_path / "waiting.py").write_text(WAITING, encoding="utf-8")
    with WorkerProcess(
        "waiting", redis_url, directory=tmp_path, cwd=tmp_path, pool="solo", name="w1"
    ):
        (waiting,) = people.json("explain", "t1")["waiting"]
        assert waiting["worker"] == "w1@localhost"
        assert waiting["numbers"]["name"] == "100/s"
        assert waiting["until"] == "2026-01-01T00:00:00.000+00:00"
        assert people.run("explain", "t9").exit_code == 4
        (reply,) = Environment(people.app, None).ask_workers(COMMAND, {}, 1.0)
        assert reply["w1@localhost"][0]["task_id"] == "t1"
