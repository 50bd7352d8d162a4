"""The message a dead letter is sent again as."""

from __future__ import annotations

from typing import Any

import pytest

from governor.operations.replay import replay_message
from tests.deaths import message


def replayed(**changes: Any) -> Any:
    return replay_message(
        message("old-id", **changes),
        replay_task_id="new-id",
        dead_letter_id="dead-letter",
        idempotency_key="key",
    )


HEADERS = [
    # header, before, after
    ("id", "old-id", "new-id"),  # a new task
    ("retries", 7, 0),  # which has not been retried
    ("eta", "2025-01-01T00:00:00+00:00", None),  # may run at once
    ("expires", "2025-01-01T00:00:00+00:00", None),  # and does not expire
    ("root_id", "root", "root"),  # of the same workflow
    ("group", "group-1", "group-1"),  # and group
    ("timelimit", [10, 5], [10, 5]),  # with the same time limits
    ("stamped_headers", ["a"], ["a"]),  # and stamps
    ("x-mine", b"\x00", b"\x00"),  # the user's own headers stay
]


@pytest.mark.parametrize(("header", "before", "after"), HEADERS)
def test_headers(header: str, before: object, after: object) -> None:
    """A replay starts over as a new task and keeps all the rest."""
    assert replayed(headers={header: before}).headers[header] == after


GOVERNED = [
    # what the dead message said, what its replay says
    (None, {"v": 1}),  # a task that was not governed
    # upstream and limits stay
    (
        {"v": 1, "upstream": "stripe", "limits": {"s": 2}},
        {"v": 1, "upstream": "stripe", "limits": {"s": 2}},
    ),
    ({"v": 1, "first": 5, "deferrals": 9, "slot": ["s", 7], "began": 3}, {"v": 1}),  # waiting goes
    ({"v": 3, "upstream": "stripe"}, {"v": 1}),  # a version nobody here can read
    ({"v": 1, "idem": "old", "replay_of": "first"}, {"v": 1}),  # a replay of a replay
    ("broken", {"v": 1}),  # not a mapping
]


@pytest.mark.parametrize(("before", "after"), GOVERNED)
def test_the_governed_header(before: object, after: dict[str, object]) -> None:
    """The header names the dead letter and the first run's key, and forgets the waiting."""
    expected = {**after, "idem": "key", "of": "new-id", "replay_of": "dead-letter"}
    assert replayed(headers={"governor": before}).headers["governor"] == expected


def test_the_brokers_own_headers_are_dropped() -> None:
    """RabbitMQ drops a message whose death headers show a circle."""
    marks = {"x-death": [{"count": 1}], "x-first-death-queue": "q", "x-delivery-count": 2}
    assert not marks.keys() & replayed(headers=marks).headers.keys()


def test_properties() -> None:
    """The correlation id is the new task's; what belongs to one delivery is dropped."""
    found = replayed(
        properties={
            "content_type": "application/json",
            "correlation_id": "old-id",
            "reply_to": "me",
            "expiration": "1000",
            "message_id": "m",
            "priority": 3,
        }
    ).properties
    assert found == {
        "content_type": "application/json",
        "correlation_id": "new-id",
        "reply_to": "me",
        "priority": 3,
    }


def test_body_and_route_are_untouched() -> None:
    """Bytes, exchange, routing key and queue are those of the dead message."""
    before = message("old-id", body=b"\xff\x00", exchange="ex", routing_key="rk", queue="q")
    after = replayed(body=b"\xff\x00", exchange="ex", routing_key="rk", queue="q")
    assert (after.body, after.exchange, after.routing_key, after.queue) == (
        before.body,
        before.exchange,
        before.routing_key,
        before.queue,
    )


def test_the_dead_message_is_not_changed() -> None:
    """The function is pure: its argument is as before."""
    before = message("old-id", headers={"governor": {"v": 1, "slot": 5}})
    replay_message(before, replay_task_id="n", dead_letter_id="d", idempotency_key=None)
    assert before == message("old-id", headers={"governor": {"v": 1, "slot": 5}})
