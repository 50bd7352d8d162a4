"""``governor explain``: what a task waits for, or why it is dead, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from click.testing import CliRunner, Result

from governor.cli.environment import Environment
from governor.cli.explain import explain
from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.repository import SqlDeadLetters
from governor.errors import DatabaseUnavailable, StoreUnavailable
from governor.policy.breaker import BreakerPolicy
from governor.policy.outcome import Outcome
from governor.policy.settlement import Settlement
from governor.ports import Reason
from governor.testing.conformance_parking import FAST, lane, task
from governor.worker import inspect
from tests.deaths import DEAD_AT, death
from tests.unit.test_cli_limits import WHY, People


class Asked(Environment):
    """An environment whose workers are a list of replies."""

    def __init__(self, people: People, folder: Path) -> None:
        super().__init__(people.app, None)
        self.people = people
        engine = bounded_engine(f"sqlite:///{folder / 'dead.sqlite'}")
        schema.upgrade(engine)
        self.letters = SqlDeadLetters(engine, redact=str)
        self.replies: list[Any] = []
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def dead_letters(self) -> SqlDeadLetters:
        return self.letters

    def ask_workers(self, command: str, arguments: Mapping[str, Any], wait: float) -> list[Any]:
        self.asked.append((command, arguments))
        return self.replies

    def waits(self, **said: Any) -> None:
        """A worker in which task ``t1`` waits."""
        until = self.people.clock.wall() + 2 * SECOND
        entry = {
            "task_id": "t1", "task": "charge", "upstream": "payments", "limit": None,
            "until": until, "where": "held", "since": until - 5 * SECOND, "deferrals": 3,
            "reserved": [], **said,
        }  # fmt: skip
        self.replies = [{"celery@idle": []}, {"celery@busy": [entry, {**entry, "task_id": "t2"}]}]

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(explain, list(arguments), obj=self)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    people = People()
    made = Asked(people, tmp_path)
    yield made
    made.letters.close()
    people.app.close()


def test_a_task_that_waits_for_a_limit(asked: Asked) -> None:
    """Where it waits, for what and until when is said, with the limit's four numbers."""
    asked.people.call()
    asked.waits(limit="slow")
    plain = asked.run("t1")
    assert plain.exit_code == 0
    for said in (
        "It waits in celery@busy, held inside the worker: charge",
        "for    slow of payments",
        "until  2026-01-01T01:00:02",
        "deferred 3 times",
        "slow: limit 2, remaining 1, retry after –, reset after 0.5 s",
    ):
        assert said in plain.stdout
    assert asked.asked == [("governor_waiting", {"task_id": "t1"})]
    found = asked.json("t1")
    assert (found["found"], found["workers"]) == ("waiting", 2)
    (waiting,) = found["waiting"]
    assert (waiting["worker"], waiting["where"]) == ("celery@busy", "held")
    assert waiting["since"] == "2026-01-01T00:59:57.000+00:00"
    assert waiting["numbers"]["remaining"] == 1


def test_a_deferred_task_is_explained_by_its_slot(asked: Asked) -> None:
    """Its message names the bucket in which it stands in line: that is its limit."""
    asked.people.call("a")
    plan = asked.people.governor.governance("charge")
    assert plan is not None
    buckets = [charge.bucket for charge in plan.plan.charges(("a",), {})]
    asked.waits(where="deferred", reserved=[[buckets[0], 5, True], [buckets[1], 9, False]])
    (waiting,) = asked.json("t1")["waiting"]
    assert waiting["limit"] == "25/s per account"
    assert waiting["numbers"]["remaining"] == 4


# what a worker names, what is said of it
OTHER_WAITS = [
    ("breaker", "breaker: open until"),
    ("pause", "incident 7"),
    ("claim", "another delivery of this task"),
    (None, "its limits are not asked yet"),
]


@pytest.mark.parametrize(("limit", "said"), OTHER_WAITS)
def test_a_task_that_waits_for_something_else(asked: Asked, limit: str | None, said: str) -> None:
    """A pause says who made it, a breaker until when it is open."""
    asked.people.run("pause", "payments", *WHY)
    for _ in range(2):
        asked.people.store.settle(
            Settlement("payments", outcome=Outcome.FAILED,
                       breaker=BreakerPolicy(2, 4, 60 * SECOND, 8, SECOND))
        )  # fmt: skip
    asked.waits(limit=limit, where="asking")
    assert said in asked.run("t1").stdout
    assert asked.json("t1")["waiting"][0]["numbers"] is None


def test_an_upstream_that_is_not_declared_here(asked: Asked) -> None:
    """The worker's word is shown without numbers, as when it runs another version."""
    asked.waits(limit="x", upstream="elsewhere", since=None, until=None)
    shown = asked.run("t1")
    assert shown.exit_code == 0
    assert "x of elsewhere" in shown.stdout


def test_a_dead_task(asked: Asked) -> None:
    """The reason, the command that shows the dead letter, and its trail."""
    row = asked.letters.record(death("t1"))
    plain = asked.run("t1")
    assert plain.exit_code == 0
    for said in ("It is dead: retries_exhausted", f"governor dead show {row}", "died"):
        assert said in plain.stdout
    found = asked.json("t1")
    assert found["found"] == "dead"
    (dead,) = found["dead"]
    assert (dead["id"], dead["state"], dead["replay"]) == (row, "dead", False)
    assert dead["audit"][0]["action"] == "died"


def test_the_replay_of_a_dead_letter(asked: Asked) -> None:
    """A task that is a replay leads to the dead letter it replays."""
    row = asked.letters.record(death("t1", reason=Reason.RETRIES_EXHAUSTED))
    claim = asked.letters.claim_replay(row, 1, DEAD_AT, "ann", "again")
    asked.letters.mark_replayed(claim, DEAD_AT, "ann")
    plain = asked.run(claim.replay_task_id)
    assert f"the replay of dead letter {row}, which is replayed" in plain.stdout
    assert asked.json(claim.replay_task_id)["dead"][0]["replay"] is True


def test_a_parked_task(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task in a parking lot is found there, with its lane and position."""
    lots = asked.people.store.lots
    lots.park("quiet", [task("t0", lane(FAST)), task("t1", lane(FAST))])
    plain = asked.run("t1")
    assert plain.exit_code == 0
    assert "It is parked" in plain.stdout
    assert "position     2 of 2 in its lane" in plain.stdout
    found = asked.json("t1")
    assert found["found"] == "parked"
    assert (found["parked"]["upstream"], found["parked"]["position"]) == ("quiet", 2)

    def away(*_: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(lots, "find", away)
    assert asked.run("t1").exit_code == 6


def test_a_task_that_nobody_knows(asked: Asked) -> None:
    """Exit code 4, and what may be the case."""
    asked.waits()
    unknown = asked.run("t9")
    assert unknown.exit_code == 4
    assert "2 workers answered" in unknown.stderr
    assert asked.json("t9")["found"] == "unknown"


def test_parts_that_are_away(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be asked is named; it is exit code 6 only when nothing else was found."""

    def broker(*_: Any) -> list[Any]:
        raise ConnectionError("redis://:secret@host")

    def database(*_: Any) -> None:
        raise DatabaseUnavailable

    asked.letters.record(death("t1"))
    monkeypatch.setattr(asked, "ask_workers", broker)
    found = asked.run("t1")
    assert found.exit_code == 0
    assert "could not be asked (ConnectionError)" in found.stderr
    assert "secret" not in found.output
    monkeypatch.setattr(asked.letters, "of_task", database)
    away = asked.run("t1")
    assert away.exit_code == 6
    assert "database" in away.stderr


def test_the_worker_answers_from_its_gate() -> None:
    """The command names those who wait, or the one asked about; without a dispatcher, nobody."""
    command = Panel.data[inspect.COMMAND]
    dispatcher = SimpleNamespace(waiting=lambda: [{"task_id": "a"}, {"task_id": "b"}])
    state = SimpleNamespace(app=SimpleNamespace(governor=SimpleNamespace(dispatcher=dispatcher)))
    assert command(state) == [{"task_id": "a"}, {"task_id": "b"}]
    assert command(state, task_id="b") == [{"task_id": "b"}]
    for app in (SimpleNamespace(), SimpleNamespace(governor=SimpleNamespace(dispatcher=None))):
        assert command(SimpleNamespace(app=app)) == []
    assert Panel.meta[inspect.COMMAND].type == "inspect"


def test_the_worker_tells_how_late_its_bodies_start() -> None:
    """Its dispatcher's figures, for ``governor doctor``; nothing without a dispatcher."""
    command = Panel.data[inspect.STARTS]
    dispatcher = SimpleNamespace(late_starts=lambda: {"grace": 50, "starts": 1, "last": 80})
    state = SimpleNamespace(app=SimpleNamespace(governor=SimpleNamespace(dispatcher=dispatcher)))
    assert command(state) == {"grace": 50, "starts": 1, "last": 80}
    assert command(SimpleNamespace(app=SimpleNamespace())) == {}
    assert Panel.meta[inspect.STARTS].type == "inspect"
