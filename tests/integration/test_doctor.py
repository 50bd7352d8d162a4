"""``governor doctor`` finds what would break a guarantee, and says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from governor import GovernedTask, Governor, Limit, Upstream
from governor.cli.doctor.command import doctor
from governor.cli.environment import Environment
from governor.cli.main import governor as command
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.spill import Spill
from governor.policy.parking_values import Arrival, Lane
from tests.deaths import death

pytestmark = pytest.mark.redis


class Patient:
    """An application to be looked at."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self.app = Celery("patient", broker=redis_url, set_as_current=False)
        database = f"sqlite:///{directory / 'dead.sqlite'}"
        engine = bounded_engine(database)
        schema.upgrade(engine)
        engine.dispose()
        self.app.conf.update(
            governor_database_url=database, governor_spill_dir=str(directory / "spill")
        )
        Governor(self.app)

        @self.app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("1/s")))
        def call() -> None: ...

    def findings(
        self, environment: Environment | None = None
    ) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code, and the worst finding of each check."""
        obj = environment or Environment(self.app, None)
        result = CliRunner().invoke(doctor, ["--json"], obj=obj)
        ranks = ["ok", "warning", "error"]
        worst: dict[str, dict[str, Any]] = {}
        for finding in json.loads(result.stdout)["findings"]:
            known = worst.setdefault(finding["check"], finding)
            if ranks.index(finding["level"]) > ranks.index(known["level"]):
                worst[finding["check"]] = finding
        return result.exit_code, worst


@pytest.fixture
def patient(redis_url: str, tmp_path: Path) -> Iterator[Patient]:
    made = Patient(redis_url, tmp_path)
    yield made
    made.app.close()


def test_a_healthy_application(patient: Patient) -> None:
    """With all in order there is no error, and the exit code is 0."""
    code, findings = patient.findings()
    assert code == 0, findings
    worse = {check for check, f in findings.items() if f["level"] != "ok"}
    assert worse == {"redis persistence", "parking"}


def test_pickle_is_refused(patient: Patient) -> None:
    """Accepting pickle is an error."""
    patient.app.conf.accept_content = ["json", "pickle"]
    code, findings = patient.findings()
    assert code == 1
    assert findings["serializers"]["level"] == "error"


def test_an_evicting_redis_is_an_error(patient: Patient, redis_url: str) -> None:
    """A Redis that may evict limits is an error with its remedy."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", 100_000_000)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            code, findings = patient.findings()
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    assert code == 1
    assert "noeviction" in findings["redis memory"]["remedy"]


@pytest.mark.parametrize(
    ("appendonly", "policy", "level", "remedy"),
    [
        # what is parked is on disk, and stays in memory
        ("yes", "noeviction", "ok", ""),
        # what is parked since the last snapshot may be lost
        ("no", "noeviction", "warning", "appendonly yes"),
        # what is parked may be evicted
        ("yes", "allkeys-lru", "warning", "maxmemory-policy noeviction"),
        # parked tasks are kept for ever: a policy for what expires does not touch them
        ("yes", "volatile-lru", "ok", ""),
    ],
)
def test_parked_tasks_need_a_redis_that_keeps_them(
    patient: Patient, redis_url: str, appendonly: str, policy: str, level: str, remedy: str
) -> None:
    """Where Redis may lose what is parked there, the doctor warns and names the remedy."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("appendonly", appendonly)
        client.config_set("maxmemory", 100_000_000)
        client.config_set("maxmemory-policy", policy)
        try:
            found = patient.findings()[1]["parking"]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "no")
    assert found["level"] == level, found
    assert remedy in found["remedy"]


def test_a_redis_that_does_not_tell(patient: Patient, redis_url: str) -> None:
    """Without the permission to look, the doctor says that it could not be seen."""
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", "nopass", "~*", "+@all", "-info")
        try:
            patient.app.conf.governor_redis_url = redis_url.replace("://", "://blind:x@")
            found = patient.findings()[1]["parking"]
        finally:
            client.execute_command("ACL", "DELUSER", "blind")
    assert found["level"] == "warning"
    assert "could not be seen" in found["message"]


class Consuming(Environment):
    """An environment with one worker, which consumes these queues."""

    def __init__(self, app: Celery, *queues: str) -> None:
        super().__init__(app, None)
        self.queues = queues

    def ask_workers(self, command: str, arguments: Mapping[str, Any], wait: float) -> list[Any]:
        if command != "active_queues":
            return []
        return [{"celery@busy": [{"name": queue} for queue in self.queues]}]


def test_parked_tasks_of_a_queue_without_a_worker(patient: Patient) -> None:
    """A queue that parked tasks came from and no worker consumes is a warning that names it."""
    store = Governor.of(patient.app).store
    assert "parked tasks" not in patient.findings(Consuming(patient.app))[1]
    for number, queue in enumerate(("bulk", "bulk", "celery")):
        lane = Lane(f"g of {queue}", ("1/s",), "", origin=queue)
        store.lots.park("api", [Arrival(f"t{number}", lane, (1,), b"")])
    warned = patient.findings(Consuming(patient.app, "celery"))[1]["parked tasks"]
    assert warned["level"] == "warning"
    assert "2 parked tasks came from bulk" in warned["message"]
    assert "-Q bulk" in warned["remedy"]
    assert (
        patient.findings(Consuming(patient.app, "celery", "bulk"))[1]["parked tasks"]["level"]
        == "ok"
    )


def test_parking_in_the_broker_needs_no_redis(patient: Patient) -> None:
    """Where nothing is parked in Redis there is nothing to warn of."""
    del patient.app.governor
    del patient.app.tasks[next(name for name in patient.app.tasks if name.endswith("call"))]
    Governor(patient.app)

    @patient.app.task(
        shared=False, base=GovernedTask, upstream=Upstream("api", Limit("1/s"), parking="broker")
    )
    def brief() -> None: ...

    assert patient.findings()[1]["parking"]["level"] == "ok"


def test_a_redis_that_is_away(patient: Patient) -> None:
    """An unreachable limiter store is an error, not a traceback."""
    patient.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
    code, findings = patient.findings()
    assert code == 1
    assert findings["redis"]["level"] == "error"


def test_a_database_without_tables(patient: Patient, tmp_path: Path) -> None:
    """A database that was never upgraded is an error that names the command."""
    patient.app.conf.governor_database_url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    code, findings = patient.findings()
    assert code == 1
    assert "governor db upgrade" in findings["database"]["remedy"]


def test_a_time_limit_beyond_the_visibility_timeout(patient: Patient) -> None:
    """A task that may run longer than the broker waits would be run twice."""
    patient.app.conf.task_time_limit = 3000
    code, findings = patient.findings()
    assert code == 1
    assert findings["visibility timeout"]["level"] == "error"


def test_a_declaration_that_cannot_work(patient: Patient) -> None:
    """A wrong declaration is a finding, not a traceback."""

    @patient.app.task(
        shared=False, base=GovernedTask, upstream=Upstream("other", Limit("1/s", per="nobody"))
    )
    def wrong(account: str) -> None: ...

    code, findings = patient.findings()
    assert code == 1
    assert "nobody" in findings["tasks"]["message"]


def test_a_setting_that_does_not_exist(patient: Patient) -> None:
    """A misspelt setting is an error that names the right one."""
    patient.app.conf.governor_hodl = 1
    code, findings = patient.findings()
    assert code == 1
    assert "governor_hold" in findings["settings"]["remedy"]


def test_without_an_application_it_says_what_it_needs() -> None:
    """Without -A the error says how to name the application."""
    result = CliRunner().invoke(command, ["doctor"])
    assert result.exit_code == 2
    assert "-A proj" in result.output


def test_dead_letters_on_disk_are_told(patient: Patient) -> None:
    """Deaths that wait for the database are a warning, those it refuses an error, with the command
    that says more."""
    spill = Spill(patient.app.conf.governor_spill_dir, redact=str)
    spill.append(death("a"))
    code, findings = patient.findings()
    assert (code, findings["spill"]["level"]) == (0, "warning")
    assert "1 dead letters wait on disk" in findings["spill"]["message"]
    spill.set_aside(death("b"))
    code, findings = patient.findings()
    assert (code, findings["spill"]["level"]) == (1, "error")
    assert "drain-spill" in findings["spill"]["remedy"]


def user(redis_url: str, *words: str) -> str:
    """The URL of a user that is allowed this."""
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", *words)
    return redis_url.replace("://", "://limited:pw@")


@pytest.mark.parametrize(
    ("words", "level", "said"),
    [
        (("~*", "&*", "+@all", "-@scripting"), "error", "may not run the limits' scripts"),
        (("~*", "&*", "+@all", "-hset", "-publish"), "error", "may not run HSET, PUBLISH"),
        (("~other:*", "&*", "+@all"), "error", "may not run the limits' scripts"),
        (("~*", "+@all"), "error", "may not run PSUBSCRIBE, PUBLISH"),
        (("~*", "&*", "+@all", "-@dangerous"), "ok", "may do what a worker does"),
    ],
)
def test_what_the_redis_user_may_not_do_is_told(
    words: tuple[str, ...], level: str, said: str, patient: Patient, redis_url: str
) -> None:
    """A user that may not run what workers run is an error that names it; one that may not look at
    the server is not, because all runs."""
    patient.app.conf.governor_redis_url = user(redis_url, *words)
    code, findings = patient.findings()
    found = findings["redis permissions"]
    assert (found["level"], code) == (level, int(level == "error")), findings
    assert said in found["message"]
    if level == "error":
        assert "ACL SETUSER" in found["remedy"]
        assert "&gov:{*}:wake" in found["remedy"]
    else:
        assert "INFO is not allowed" in findings["redis"]["message"]


def test_a_refused_login_is_called_that(patient: Patient, redis_url: str) -> None:
    """A wrong password is not taken for a server that is away."""
    patient.app.conf.governor_redis_url = redis_url.replace("://", "://limited:wrong@")
    code, findings = patient.findings()
    assert code == 1
    assert "refuses the login" in findings["redis"]["message"]
    assert "wrong" not in str(findings)


def test_garbage_under_an_upstreams_keys_is_told(patient: Patient, redis_url: str) -> None:
    """An upstream whose data cannot be used is an error that names key and remedy."""
    with redis.Redis.from_url(redis_url) as client:
        client.hset("gov:{api}", "b:s", "garbage")
    code, findings = patient.findings()
    assert code == 1
    assert findings["upstreams"]["message"] == "api: gov:{api}: field b:s holds 'garbage'"
    assert findings["upstreams"]["remedy"] == 'Run HDEL "gov:{api}" "b:s"'
