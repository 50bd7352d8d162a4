"""The consequence of each end of a body, with the worker's real dispatcher on a simulated loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state as celery_state
from kombu.exceptions import OperationalError

from governor.clock import SECOND
from governor.errors import BodyDied
from governor.policy.failure import exception_facts
from governor.policy.outcome import Outcome
from governor.ports import Reason
from governor.worker.body_results import Again, NotNow
from governor.worker.failures import Failure
from governor.worker.lifecycle import RequestState
from governor.worker.request import GovernedRequest
from tests.unit import simulated_worker
from tests.unit.simulated_worker import SimulatedWorker

GONE, RETURNED = RequestState.GONE, RequestState.RETURNED
SOON = SECOND // 2


def sent_by_its_process(reason: Reason | None, wait: int | None = None) -> Exception:
    """An exception with the decision that was made beside the body."""
    facts = exception_facts(ValueError, ValueError("no"), None)
    exc = ValueError("no")
    vars(exc)["_governor_failure"] = Failure(facts, 1, Outcome.FAILED, wait, reason, "so it said")
    return exc


class Life:
    """One task of a simulated worker, whose first body ends with ``exc``."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, task: str, exc: BaseException | None,
        before: Callable[[GovernedRequest], None],
    ) -> None:  # fmt: skip
        self.worker = SimulatedWorker(folder, patch)
        self.requests: list[GovernedRequest] = []
        patch.setitem(simulated_worker.ENDS, "it", exc)  # type: ignore[arg-type]
        take, run = self.worker.dispatcher.on_request, self.worker.pool.run

        def received(request: Any) -> None:
            self.requests.append(request)
            take(request)

        def begun(request: GovernedRequest) -> None:
            run(request)
            if len(self.requests) == 1:
                before(request)

        patch.setattr(self.worker.dispatcher, "on_request", received)
        patch.setattr(self.worker.pool, "run", begun)
        self.id = self.worker.send(task, "it")
        self.worker.run_for(10)

    def end(self) -> tuple[RequestState, Reason | None, int, int]:
        """The first request's last state, the row's reason, the calls that were made, the attempts
        that were spent."""
        rows = self.worker.rows.deaths
        assert len(rows) <= 1
        reason = rows[0].reason if rows else None
        retries = int(self.requests[-1].request_dict.get("retries") or 0)
        return self.requests[0].state, reason, self.worker.began[self.id], retries


def nothing(_: GovernedRequest) -> None:
    """Nothing happens meanwhile."""


def cancelled(request: GovernedRequest) -> None:
    """Celery cancels the request: the connection is lost, or the worker shuts down cold."""
    request._already_cancelled = True


TABLE = [
    # it returned
    ("again", None, GONE, None, 1, 0),
    # it came too late for its slot: it asks again, and runs
    ("again", NotNow(late=1), GONE, None, 1, 0),
    # its upstream refused: it waits, no attempt is spent, and it may run though not idempotent
    ("once", NotNow(pause=SOON), GONE, None, 1, 0),
    # a call inside it has to wait
    ("once", NotNow(wait=SOON), GONE, None, 1, 0),
    # it failed, and its policy says "again"
    ("again", Again(exc=ConnectionError(), wait=SOON), GONE, None, 2, 1),
    # the same, told beside an exception that came after the body
    ("again", sent_by_its_process(None, wait=SOON), GONE, None, 2, 1),
    # it failed for good: its process sends the reason, of which nothing is decided here
    ("again", sent_by_its_process(Reason.RETRIES_EXHAUSTED), GONE, Reason.RETRIES_EXHAUSTED, 1, 0),
    ("again", sent_by_its_process(Reason.NOT_RETRYABLE), GONE, Reason.NOT_RETRYABLE, 1, 0),
    # Celery has sent the next attempt itself, and its process says what the call said
    ("again", sent_by_its_process(None), GONE, None, 1, 0),
    # the body asked for no result
    ("once", Ignore(), GONE, None, 1, 0),
    # Celery's own retry
    ("again", Retry(), GONE, None, 1, 0),
    # rejected by its body: requeued only where a second call does no harm
    ("again", Reject(requeue=True), RETURNED, None, 1, 0),
    ("again", Reject(), GONE, Reason.REJECTED, 1, 0),
    ("once", Reject(requeue=True), GONE, Reason.REJECTED, 1, 0),
    # a retry of Celery's that could not be published, which Celery would drop
    ("again", Reject(OperationalError()), GONE, Reason.DEFER_PUBLISH_FAILED, 1, 0),
    # its time was up
    ("again", TimeLimitExceeded(1), GONE, Reason.HARD_TIME_LIMIT, 1, 0),
    # it would have ended the worker
    ("again", MemoryError(), GONE, Reason.MEMORY_ERROR, 1, 0),
    ("again", BodyDied("MemoryError"), GONE, Reason.MEMORY_ERROR, 1, 0),
    ("once", BodyDied("SystemExit"), GONE, Reason.SYSTEM_EXIT, 1, 0),
    # its process was lost: tried again where a second call does no harm
    ("again", WorkerLostError(), GONE, None, 2, 1),
    ("once", WorkerLostError(), GONE, Reason.OUTCOME_UNKNOWN, 1, 0),
    ("once", SystemExit(), GONE, Reason.OUTCOME_UNKNOWN, 1, 0),
    # a person terminated it, and that is their own record
    ("once", Terminated(15), GONE, None, 1, 0),
    # it failed before Celery called the task at all
    ("again", ValueError(), GONE, Reason.NOT_RETRYABLE, 1, 0),
    ("once", ValueError(), GONE, Reason.NOT_IDEMPOTENT, 1, 0),
]


@pytest.mark.parametrize(("task", "exc", "state", "reason", "calls", "attempts"), TABLE)
def test_what_follows_from_an_end(
    task: str, exc: BaseException | None, state: RequestState, reason: Reason | None, calls: int,
    attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each end of a body is followed by one thing: another admission, the next attempt, a row, or
    what Celery does."""
    life = Life(tmp_path, monkeypatch, task, exc, nothing)
    assert life.end() == (state, reason, calls, attempts)
    assert not life.worker.broker.unacknowledged
    assert life.worker.pool.slots == 2, "all are free"


RETURNING = [
    # its process was killed with it
    (WorkerLostError(), True),
    # the pool ended it
    (Terminated(15), True),
    # it had made no call, and another delivery may
    (NotNow(late=1), False),
]


@pytest.mark.parametrize(("exc", "called"), RETURNING)
def test_what_celery_cancelled_is_handed_out_again(
    exc: BaseException, called: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that Celery has cancelled stays unacknowledged. Its claim is given back only where
    no call was made."""
    life = Life(tmp_path, monkeypatch, "once", exc, cancelled)
    assert life.end() == (RETURNED, None, int(called), 0)
    assert list(life.worker.broker.unacknowledged.values()) == [life.id]
    call = life.requests[0].call
    assert call is not None
    assert call.claim is not None
    claimant = life.worker.store.claimed_by("api", life.id, 0, call.claim.message)
    assert (claimant is not None) is called


def test_a_cold_shutdown_gives_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is lost while the worker shuts down cold is no death: the broker hands the
    message out again."""
    monkeypatch.setattr(celery_state, "should_terminate", 0)
    life = Life(tmp_path, monkeypatch, "again", WorkerLostError(), nothing)
    assert life.end() == (RETURNED, None, 1, 0)
    assert list(life.worker.broker.unacknowledged.values()) == [life.id]


def test_a_lost_process_is_tried_again_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idempotent task whose process is lost every time is a row when its attempts are used."""
    life = Life(tmp_path, monkeypatch, "again", WorkerLostError(), nothing)
    exc = WorkerLostError()
    monkeypatch.setitem(simulated_worker.ENDS, "fails", exc)  # type: ignore[arg-type]
    life.id = life.worker.send("again", "fails")
    life.worker.run_for(10)
    (row,) = life.worker.rows.deaths
    assert (row.reason, life.worker.began[life.id]) == (Reason.WORKER_LOST, 3)
