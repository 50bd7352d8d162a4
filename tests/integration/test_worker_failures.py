"""Facts of a failure, with real workers of every pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from governor.deadletter.rows import DeadLetter
from governor.ports import Reason
from tests.integration.fleet import Fleet, fleet, wait_until, wait_until_paused
from tests.kinds_of_failure import KINDS

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.integration.failing_app"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def dead(found: Fleet, count: int) -> dict[str, DeadLetter]:
    letters = wait_until(found.dead, lambda letters: len(letters) >= count)
    assert len(letters) == count
    return {str(letter.task_id): letter for letter in letters}


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_failure_is_known_as_it_happened(tmp_path: Path, redis_url: str, pool: str) -> None:
    """Of every kind of failure the row has class, chain, status and each attempt; the policy was
    followed; the breaker heard; three customers who are not there are one group."""
    database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet(tmp_path, redis_url, redis_url, database_url, module=MODULE) as found:
        found.worker(pool)
        kinds = {
            found.send(
                "fails", raises.__name__, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            ).id: kind
            for raises, kind in KINDS.items()
        }  # fmt: skip
        names = [found.send("no_such", name).id for name in ("Ann", "Bob", "Eve")]
        result = found.send("unencodable").id
        letters = dead(found, len(kinds) + 4)
        for task_id, kind in kinds.items():
            letter = letters[task_id]
            assert letter.reason is Reason.RETRIES_EXHAUSTED
            assert letter.exc_type == kind.chain[0]
            assert letter.http_status == kind.status
            assert letter.queue == "celery"
            assert letter.trace_id == TRACE
            first, last = letter.attempt_log
            assert first["exc_type"] == last["exc_type"] == kind.chain[0]
            assert first.get("http_status") == kind.status
            assert first["wait_seconds"] == 0.01
            assert last["said"] == "attempt 2 of 2 failed"
            assert letter.first_failed_at == first["at"] < last["at"] <= letter.dead_at
        assert len({letters[task_id].fingerprint for task_id in names}) == 1
        assert letters[result].reason is Reason.NOT_RETRYABLE
        assert str(letters[result].exc_message).startswith("the body succeeded; its result")
        assert len(found.ledger("unencodable")) == 1
        assert len(found.ledger("fails")) == 2 * len(kinds)
        shaken = [found.send("shakes").id for _ in range(3)]
        wait_until(found.dead, lambda letters: len(letters) == len(kinds) + 7)
        found.send("shakes")
        wait_until(lambda: found.stats("parked") + found.stats("held"))
        assert len(found.ledger("shakes")) == len(shaken)


def test_what_a_failure_leaves_behind(tmp_path: Path, redis_url: str) -> None:
    """A refusal pauses the upstream also where the refused task dies of it; a process that was
    killed has failed once, at a known time; Celery's own retries are in the log."""
    database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet(tmp_path, redis_url, redis_url, database_url, module=MODULE) as found:
        found.worker()
        hung = found.send("hangs").id
        letter = dead(found, 1)[hung]
        assert letter.reason is Reason.HARD_TIME_LIMIT
        assert [line["at"] for line in letter.attempt_log] == [letter.first_failed_at]
        retried = found.send("retried").id
        letter = dead(found, 2)[retried]
        assert letter.reason is Reason.RETRIES_EXHAUSTED
        assert [line["http_status"] for line in letter.attempt_log] == [500, 500, 500]
        assert letter.first_failed_at == letter.attempt_log[0]["at"]
        refused = found.send("refused_after_a_call").id
        letter = dead(found, 3)[refused]
        assert letter.reason is Reason.NOT_IDEMPOTENT
        wait_until_paused(redis_url, "free")
        assert len(found.ledger("refused_after_a_call")) == 1
