"""The message a dead letter is sent again as."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery._state import _task_stack
from celery.exceptions import Ignore

from governor import GovernedTask, Governor, Limit, Upstream
from governor.messages.header import Header
from governor.operations.replay import replay_message
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
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


SENT = [
    # a task that takes over the running task's id
    (lambda task: task.replace(task.s()), "dead-letter"),
    # another task
    (lambda task: task.delay(), None),
    # another task under the running task's id
    (lambda task: task.apply_async(task_id="t1"), None),
]


@pytest.mark.parametrize(("send", "named"), SENT)
def test_what_replaces_a_replay_names_its_dead_letter(send: Any, named: str | None) -> None:
    """A task that a replay replaces itself with resolves the dead letter when it succeeds; other
    tasks that the replay sends do not."""
    with Celery("app", broker="memory://", set_as_current=False) as app:
        app.conf.update(governor_redis_url="redis://unused", task_default_queue=uuid4().hex)
        Governor(app, clock=FakeClock(), store=MemoryStore(lambda: 0))
        upstream = Upstream("api", Limit("1/s"))

        @app.task(shared=False, base=GovernedTask, upstream=upstream, name="call")
        def task() -> None: ...

        replay = {"v": 1, "of": "t1", "replay_of": "dead-letter"}
        task.push_request(id="t1", called_directly=False, is_eager=False, governor=replay)
        _task_stack.push(task)
        try:
            with suppress(Ignore):
                send(task)
        finally:
            _task_stack.pop()
            task.pop_request()
        with (
            app.connection_for_read() as connection,
            connection.SimpleQueue(app.conf.task_default_queue) as queue,
        ):
            message = queue.get(timeout=1)
    assert Header.from_message(message.headers).replay_of == named
