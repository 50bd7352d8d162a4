"""A short kill loop; `scripts/kill-loop` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_loop import Plan, run
from tests.servers import rabbitmq

pytestmark = [pytest.mark.redis, pytest.mark.worker]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broker", "pool"),
    [
        ("redis", "prefork"),
        ("redis", "threads"),
        pytest.param("rabbitmq", "prefork", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq", "threads", marks=pytest.mark.rabbitmq),
    ],
)
def test_workers_and_pool_processes_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, broker: str, pool: str
) -> None:
    """SIGKILL every one or two seconds: each task has succeeded or is one dead letter, and no body
    that must not run twice did. A message that kombu has taken off Redis and not noted yet is
    kombu's loss, at most one for each worker that was killed."""
    if broker == "rabbitmq" and (reason := rabbitmq.missing()):
        pytest.skip(reason)
    done = run(Plan(broker, pool, seed=7, tasks=200, rate=40, every=(1.0, 2.0)), tmp_path)
    assert not done.account.faults(), done
    assert len(done.account.lost_by_broker) <= done.kills["worker"]
    assert not done.left
    assert done.kills.total() >= 2
