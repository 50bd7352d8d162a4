"""Real workers: what is tried again, waits or is replayed comes back as the message it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from governor.ports import Reason
from tests.integration.fleet import Fleet, pause_upstream, wait_until

pytestmark = pytest.mark.redis

MODULE = "tests.integration.resend_app"
TIMEOUT = 40
BROKERS = ["redis_url", pytest.param("rabbitmq_url", marks=pytest.mark.rabbitmq)]
ROUTE = {"queue": "feed", "routing_key": "feed.import"}


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(broker_url: str | None = None, **env: str) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        fleet = Fleet(tmp_path, broker_url or redis_url, redis_url, database, module=MODULE, **env)
        feeds = Exchange("feeds", type="topic")
        fleet.app.conf.task_queues = [
            Queue(name, feeds, routing_key=f"{name}.#") for name in ("feed", "other")
        ]
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        fleet.close()


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("task", ["flaky", "parked", "waits"])
def test_it_comes_back_as_what_it_was(
    make_fleet: Callable[..., Fleet], task: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """A task that is tried again by the policy or by Celery, or that is parked or deferred, keeps
    its exchange, routing key, headers and priority in every attempt."""
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker()
    upstream = {"parked": "slow", "waits": "deferred"}.get(task)
    if upstream is not None:
        pause_upstream(fleet.limiter_url, upstream, 2)
    result = fleet.send(
        task, "acme", 2, **ROUTE, headers={"tenant": "acme", "trace": "t-1"}, priority=3
    )
    assert result.get(timeout=TIMEOUT) == "acme"
    lines = fleet.ledger(task)
    assert [line["retries"] for line in lines] == ([0] if upstream else [0, 1, 2])
    if upstream is not None:
        assert lines[0]["deferrals"] >= 1
    for line in lines:
        assert line["route"] == ["feeds", "feed.import"]
        assert (line["headers"]["tenant"], line["headers"]["trace"]) == ("acme", "t-1")
        assert line["priority"] == 3
    assert not fleet.dead()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_replay_runs(
    make_fleet: Callable[..., Fleet], broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What ``dead replay`` sends again runs where the original did, with its headers."""
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker()
    needed = tmp_path / "needed"
    fleet.send("needs", str(needed), **ROUTE, headers={"tenant": "acme"})
    (row,) = wait_until(fleet.dead, timeout=TIMEOUT)
    assert row.reason == Reason.NOT_RETRYABLE
    needed.touch()
    done = fleet.command("dead", "replay", row.id, "--yes", "--reason", "it is there now")
    assert done.returncode == 0, done.stderr
    assert "1 replayed" in done.stdout
    lines: list[Any] = wait_until(lambda: fleet.ledger("needs"), lambda seen: len(seen) == 2)
    assert [line["route"] for line in lines] == [["feeds", "feed.import"]] * 2
    assert [line["headers"]["tenant"] for line in lines] == ["acme", "acme"]
