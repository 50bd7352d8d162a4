"""What a worker publishes, and how it treats a broker that does not answer."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery

from governor.clock import SECOND
from governor.errors import Unroutable
from governor.ports import MessageCopy
from governor.testing.clock import FakeClock
from governor.worker import publishing as publishing_module
from governor.worker.publishing import AGAIN, Publishing

COPY = MessageCopy(b"[]", {}, {}, "", "celery")
DELAYED = MessageCopy(b"[]", {}, {}, "celery_delayed_27", "0.1.celery")


class Broker:
    """A broker that takes a copy, or raises the next of some errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked: list[MessageCopy] = []
        monkeypatch.setattr(publishing_module, "Publisher", lambda _: self)
        self.clock = FakeClock()
        with Celery("app", broker="memory://", set_as_current=False) as app:
            governor: Any = Mock(clock=self.clock, app=app)
            self.publishing = Publishing(governor)

    def __call__(self, copy: MessageCopy) -> None:
        self.asked.append(copy)
        if self.errors:
            raise self.errors.pop(0)

    def publish(self) -> Exception | None:
        return self.publishing.publish(COPY, self.clock.wall() + 10 * SECOND)


def test_a_copy_that_the_broker_takes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing hands it over once."""
    broker = Broker(monkeypatch)
    assert broker.publish() is None
    assert broker.asked == [COPY]


def test_a_broker_that_did_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of the connection nothing is published for a second, so that the loop is not
    blocked by one timeout after the other."""
    broker = Broker(monkeypatch, ConnectionError())
    assert isinstance(broker.publish(), ConnectionError)
    broker.clock.advance(AGAIN - 1)
    assert isinstance(broker.publish(), TimeoutError)
    assert len(broker.asked) == 1
    broker.clock.advance(1)
    assert broker.publish() is None


def test_a_copy_that_no_queue_would_get_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unroutable copy is an answer of the broker: the next copy is published at once."""
    broker = Broker(monkeypatch, Unroutable("no queue"))
    assert isinstance(broker.publish(), Unroutable)
    assert broker.publish() is None


@pytest.mark.parametrize(("sent", "told"), [(DELAYED, 1), (COPY, 0)])
def test_delay_queues_hear_of_a_failure_of_their_own(
    sent: MessageCopy, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a copy that went to the delay queues is theirs to judge; another's is not."""
    broker = Broker(monkeypatch, ConnectionError())
    delays = broker.publishing.delays = Mock(delayed=Mock(return_value=sent))
    broker.publish()
    assert broker.asked == [sent]
    assert delays.failed.call_count == told
