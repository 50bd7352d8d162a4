"""Copies of one message, and several messages under one task id, in real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from governor.ports import Reason
from tests.integration.fleet import Fleet, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.integration.identity_app"
TIMEOUT = 40
RESTORED_SOON = {
    "visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
}  # fmt: skip


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(env: dict[str, str] | None = None, **conf: Any) -> Fleet:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        made.append(
            Fleet(
                tmp_path, redis_url, redis_url, database, module=MODULE, conf=conf, **(env or {})
            )
        )  # fmt: skip
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def test_a_replacement_runs_once_and_its_result_is_the_tasks(
    make_fleet: Callable[..., Fleet],
) -> None:
    """A task that is not idempotent and replaces itself by another has that one's result: declared,
    by a route, as a chord's body, and replaced several times."""
    fleet = make_fleet()
    fleet.worker()
    sent = {
        "declared": fleet.send("outer", 2, 3),
        "routed": fleet.app.send_task("vendor.outer", (2, 3)),
        "body": chord([fleet.signature("add", 2), fleet.signature("add", 3)])(
            fleet.signature("outer_of")
        ),
        "nested": fleet.app.send_task(f"{MODULE}.outer", (2, 3), {"depth": 3}),
    }
    for result in sent.values():
        assert result.get(timeout=TIMEOUT) == 5
    lines = fleet.ledger()
    assert len([line for line in lines if line["id"] == sent["nested"].id]) == 4
    for name in ("declared", "routed", "body"):
        assert len([line for line in lines if line["id"] == sent[name].id]) == 2
    keys = [line["key"] for line in lines if "key" in line]
    assert len(keys) == len(set(keys))
    assert not fleet.dead()


def test_a_message_under_a_used_id_runs(make_fleet: Callable[..., Fleet]) -> None:
    """A signature with an id of its own that is sent twice is called twice, although the task type
    is not idempotent: two messages are two calls, and only a copy of a message is dropped."""
    fleet = make_fleet()
    fleet.worker()
    fleet.send("send_twice", "fixed", 1)
    wait_until(lambda: fleet.ledger("add"), lambda lines: len(lines) == 2)
    fleet.send("send_twice", "fixed", 1)
    lines = wait_until(lambda: fleet.ledger("add"), lambda lines: len(lines) == 4)
    assert {line["id"] for line in lines} == {"fixed"}
    assert not fleet.dead()


def test_a_death_after_a_claim_says_that_the_body_began(make_fleet: Callable[..., Fleet]) -> None:
    """A task that expires when it is delivered again after its worker was killed in the middle of
    its body is not safe to replay; one that expired before any body began is."""
    fleet = make_fleet(broker_transport_options=RESTORED_SOON)
    worker = fleet.worker()
    begun = fleet.send("hang", expires=4)
    wait_until(lambda: fleet.ledger("hang"))
    worker.kill()
    never = fleet.send("hang", expires=0)
    fleet.worker()
    rows = wait_until(fleet.dead, lambda rows: len(rows) == 2)
    assert {row.reason for row in rows} == {Reason.EXPIRED}
    found = {row.task_id: row for row in rows}
    assert found[begun.id].replay_verdict == "needs_confirmation"
    assert "had begun" in found[begun.id].replay_why
    assert found[never.id].replay_verdict == "safe"
    assert len(fleet.ledger("hang")) == 1


def test_a_parked_task_is_replaced_by_one_that_parks(make_fleet: Callable[..., Fleet]) -> None:
    """A task and its replacement, which has its id and is parked before the task has ended, are two
    that wait: each runs, once."""
    fleet = make_fleet()
    fleet.worker()
    before = [fleet.send("page", 0) for _ in range(3)]
    paged = fleet.send("page", 1, 0.5)
    after = [fleet.send("page", 0) for _ in range(3)]
    for result in (*before, paged, *after):
        assert result.get(timeout=TIMEOUT) == "last page"
    assert [line["left"] for line in fleet.ledger("page") if line["id"] == paged.id] == [1, 0]
    assert len(fleet.ledger("page")) == 8


def test_a_refused_retry_says_that_the_body_began(make_fleet: Callable[..., Fleet]) -> None:
    """A routed task that made its call and whose own retry cannot be published is not safe to
    replay."""
    fleet = make_fleet()
    fleet.worker()
    fleet.app.send_task("vendor.retries")
    (row,) = wait_until(fleet.dead)
    assert row.reason is Reason.DEFER_PUBLISH_FAILED
    assert row.replay_verdict == "needs_confirmation"
    assert "had begun" in row.replay_why


def test_a_worker_that_wakes_up_does_not_begin_what_was_buried(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """A worker and its process stand still before a claimed body begins, until another worker has
    written that the outcome is unknown. Both wake up: the body never begins, and one row stays."""
    stopped = tmp_path / "stopped"
    fleet = make_fleet(
        {"STAND_STILL": str(stopped)},
        governor_claim_lease=1,
        broker_transport_options=RESTORED_SOON,
    )
    fleet.worker()
    result = fleet.send("add", 1)
    wait_until(stopped.exists)
    fleet.worker()
    wait_until(fleet.dead)
    for pid in stopped.read_text().split():
        os.kill(int(pid), signal.SIGCONT)
    wait_until(lambda: fleet.stats("dead"), lambda dead: dead == 2)
    rows = [(row.task_id, row.reason) for row in fleet.dead()]
    assert rows == [(result.id, Reason.OUTCOME_UNKNOWN)]
    assert not fleet.ledger("add")
