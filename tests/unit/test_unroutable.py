"""A copy that no queue of the broker would get: it is not taken for sent."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from governor.clock import SECOND
from governor.errors import Unroutable
from governor.ports import MessageCopy, Reason
from governor.testing.clock import FakeClock
from governor.worker import publishing as outgoing_module
from governor.worker.publishing import Publishing
from tests.unit.simulated_worker import SimulatedWorker

COPY = MessageCopy(b"[]", {}, {}, "feeds", "no.such.key")


def test_a_next_attempt_that_no_queue_gets_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker would say the same for ever: the task dies of it, and its message is let go."""
    worker = SimulatedWorker(tmp_path, monkeypatch)
    monkeypatch.setattr(worker.dispatcher.publishing, "publish", lambda *_: Unroutable())
    task_id = worker.send("again", "tries again")
    worker.run_for(3)
    (death,) = worker.rows.deaths
    assert (death.task_id, death.reason) == (task_id, Reason.DEFER_PUBLISH_FAILED)
    assert death.exc_message == str(Unroutable())
    assert not worker.broker.unacknowledged


def test_a_deferral_that_no_queue_gets_stays_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is kept unacknowledged in the worker until its slot has come."""
    worker = SimulatedWorker(tmp_path, monkeypatch)
    monkeypatch.setattr(worker.dispatcher.publishing, "publish", lambda *_: Unroutable())
    sent = [worker.send("deferred", "returns") for _ in range(100)]
    worker.run_for(30)
    assert sorted(worker.began) == sorted(sent)
    assert set(worker.began.values()) == {1}
    assert not worker.broker.unacknowledged
    assert not worker.rows.deaths


def test_a_broker_that_has_no_queue_is_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an unroutable copy the next one is published at once; after one that the broker did not
    answer, a second later."""
    publisher = Mock(side_effect=[Unroutable(), None, OSError(), None])
    monkeypatch.setattr(outgoing_module, "Publisher", lambda _: publisher)
    monkeypatch.setattr(outgoing_module, "Delays", lambda _: Mock(delayed=lambda copy, _: copy))
    clock = FakeClock()
    publishing = Publishing(Mock(clock=clock, stats=Mock(broker_messages=0)))
    assert isinstance(publishing.publish(COPY, 0), Unroutable)
    assert publishing.publish(COPY, 0) is None
    assert isinstance(publishing.publish(COPY, 0), OSError)
    assert isinstance(publishing.publish(COPY, 0), TimeoutError)
    clock.advance(SECOND)
    assert publishing.publish(COPY, 0) is None
