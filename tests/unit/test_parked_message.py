"""A message out of the parking lot is to Celery what a message of the broker is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from governor.policy.parking_values import Ticket
from governor.ports import MessageCopy
from governor.worker.parked_message import ParkedMessage

BODY = b'[["a"], {}, {}]'


def released(headers: Any = None, unclaimed: str = "") -> tuple[ParkedMessage, list[str]]:
    """Make a released message, and the list of the ends that it tells."""
    ends: list[str] = []
    copy = MessageCopy(
        BODY, headers or {}, {"content_type": "application/json", "content_encoding": "utf-8"},
        "ex", "key", "queue",
    )  # fmt: skip
    message = ParkedMessage(
        copy, "api", Ticket("t1", 5, "w.1.1", b"packed", 3), 7, {"application/json"},
        lambda _, end: ends.append(end), unclaimed=unclaimed,
    )  # fmt: skip
    return message, ends


@pytest.mark.parametrize(
    ("end", "told"),
    [
        # done with
        (lambda message: message.ack(), ["left"]),
        (lambda message: message.ack_log_error(Mock(), ()), ["left"]),
        # refused for good
        (lambda message: message.reject(), ["left"]),
        (lambda message: message.reject_log_error(Mock(), ()), ["left"]),
        # to be delivered again
        (lambda message: message.requeue(), ["back"]),
        (lambda message: message.reject(requeue=True), ["back"]),
        (lambda message: message.reject_log_error(Mock(), (), requeue=True), ["back"]),
        # parked again, after which Celery acknowledges it
        (lambda message: (message.moved(), message.ack()), []),
        # acknowledged by two
        (lambda message: (message.ack(), message.ack()), ["left"]),
    ],
)
def test_its_end_is_told_to_the_lot_once(
    end: Callable[[ParkedMessage], object], told: list[str]
) -> None:
    """An acknowledgement takes the task out of the lot, a requeue sends it back, and a message that
    waits in a lot again tells nothing."""
    message, ends = released()
    end(message)
    assert ends == told
    assert message.acknowledged


def test_it_is_the_message_that_was_parked() -> None:
    """Body, route and headers are those of the parked message, but for the countdown, whose time
    has come."""
    headers = {"id": "t1", "eta": "2030-01-01T00:00:00", "x-mine": 1}
    message, _ = released(headers)
    assert message.payload == [["a"], {}, {}]
    assert message.headers == {"id": "t1", "x-mine": 1}
    info = message.delivery_info
    assert (info["exchange"], info["routing_key"]) == ("ex", "key")
    assert headers["eta"]


def test_its_body_is_not_decompressed_again() -> None:
    """A parked body is stored decompressed; the header by which a copy is compressed stays."""
    message, _ = released({"compression": "application/x-gzip"})
    assert message.payload == [["a"], {}, {}]
    assert message.headers == {"compression": "application/x-gzip"}


def test_the_payload_is_not_kept_twice() -> None:
    """The ticket is kept without its payload, which is the message once more."""
    message, _ = released()
    assert message.ticket == Ticket("t1", 5, "w.1.1", b"", 3)


@pytest.mark.parametrize(("unclaimed", "said"), [("", "beyond max_wait"), ("slow", "'slow'")])
def test_it_says_why_it_waited_too_long(unclaimed: str, said: str) -> None:
    """The dead letter of a task that waited too long names the queue that no worker consumed."""
    message, _ = released(unclaimed=unclaimed)
    assert said in message.why_late
