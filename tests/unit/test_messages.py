"""The governor's message header, and what a waiting or retried message keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from kombu.message import Message

from governor.keys import message_id
from governor.messages.header import NAME, Header
from governor.messages.message import copy_of
from governor.messages.variants import deferred, retried
from governor.policy.decision import Reservation
from governor.ports import MessageCopy

FULL = Header(
    upstream="stripe",
    limits={"s": 1, "s.account:abc": 3},
    mid="0f1e2d3c4b5a",
    idem="first-id",
    of="id",
    give_up_at=1_767_225_700_000_000,
    first=1_767_225_600_000_000,
    deferrals=2,
    throttles=1,
    reserved=(Reservation("s", 1_767_225_650_000_000, False), Reservation("m", 5, True)),
    began=1_767_225_600_000_001,
    replay_of="dead-letter",
    limit="100/s",
)
ETA = datetime(2026, 1, 1, 0, 0, 1, 500, tzinfo=UTC)
MESSAGE = MessageCopy(
    body=b'[[1], {"b": 2}, {"callbacks": null}]',
    headers={
        "id": "id", "task": "t", "retries": 2, "expires": "2026-01-02T00:00:00+00:00",
        "stamped_headers": ["a"], "stamps": {"a": [1]}, "root_id": "root", "group": "g",
        "x-death": [{"queue": "celery"}], "mine": "kept", NAME: FULL.to_message(),
    },
    properties={"priority": 3, "content_type": "application/json"},
    exchange="", routing_key="celery",
)  # fmt: skip


def test_a_header_survives_the_wire() -> None:
    """What is written is what is read."""
    assert Header.from_message({NAME: FULL.to_message()}) == FULL


# a header nobody can read
UNREADABLE: list[Any] = [
    # a producer without the governor
    None,
    # no mapping
    "v1",
    # a version from the future
    {"v": 2, "upstream": "stripe"},
    # a wrong type in one field
    {"v": 1, "upstream": 5},
    {"v": 1, "limits": {"s": "1"}},
    {"v": 1, "limits": ["s"]},
    {"v": 1, "slots": [["s"]]},
    {"v": 1, "slots": 7},
    {"v": 1, "first": -1},
    {"v": 1, "deferrals": True},
]


@pytest.mark.parametrize("wire", UNREADABLE)
def test_a_header_nobody_can_read_is_absent(wire: Any) -> None:
    """A broken or newer header is as good as none: never an error, never believed in part."""
    assert Header.from_message({NAME: wire}) == Header()


@pytest.mark.parametrize("wire", [{"v": 2}, {"v": 1, "upstream": 5}, {}])
def test_the_message_id_is_read_from_any_header(wire: dict[str, Any]) -> None:
    """A message keeps its id where nothing else of its header can be read: workers of all versions
    tell the same messages apart."""
    headers = {NAME: {**wire, "mid": "0f1e2d3c4b5a"}}
    assert Header.from_message(headers) == Header(mid="0f1e2d3c4b5a")
    assert message_id(headers[NAME], b"body") == "0f1e2d3c4b5a"


@pytest.mark.parametrize("mid", [None, 5, "", "a:b", "0" * 17, "\ud800", ["x"]])
def test_a_message_without_an_id_is_named_by_its_body(mid: Any) -> None:
    """A message that no governor has stamped, or with an id that no governor makes, is told from
    others by its body's bytes."""
    wire = {"v": 1, "mid": mid}
    assert Header.from_message({NAME: wire}).mid is None
    assert message_id(wire, b"a") == message_id(None, b"a") != message_id(wire, b"b")


def test_a_newer_producer_may_add_keys() -> None:
    """Keys of a later minor version are ignored."""
    assert Header.from_message({NAME: {**FULL.to_message(), "tier": "gold"}}) == FULL


def test_a_deferred_message_is_the_same_but_for_its_eta() -> None:
    """Waiting changes the ETA and our header, and drops what the broker wrote."""
    copy = deferred(MESSAGE, FULL, ETA)
    changed = {
        key
        for key in {*copy.headers, *MESSAGE.headers}
        if copy.headers.get(key) != MESSAGE.headers.get(key)
    }
    assert changed == {"eta", "x-death"}
    assert copy.headers["eta"] == "2026-01-01T00:00:01.000500+00:00"
    assert (copy.body, copy.properties) == (MESSAGE.body, MESSAGE.properties)


def test_a_retried_message_is_the_next_attempt_of_the_same_task() -> None:
    """A retry counts one more, keeps its identity, and is as patient as at first."""
    copy = retried(MESSAGE, FULL, ETA)
    assert (copy.headers["id"], copy.headers["retries"]) == ("id", 3)
    header = Header.from_message(copy.headers)
    assert (header.mid, header.idem, header.of, header.began, header.replay_of) == (
        FULL.mid, FULL.idem, FULL.of, FULL.began, FULL.replay_of,
    )  # fmt: skip
    assert (header.give_up_at, header.first, header.reserved, header.deferrals) == (
        None, None, (), 0,
    )  # fmt: skip


# a message's body as a broker may hold it, and as it is copied
BODIES = [
    (b"[]", b"[]"),
    (bytearray(b"[]"), b"[]"),
    (memoryview(b"[]"), b"[]"),
    ("é", "é".encode()),
    ("\ud800", b"\xed\xa0\x80"),
    (None, b""),
    (5, b"5"),
    ({"a": [1]}, b'{"a":[1]}'),
]


@pytest.mark.parametrize(("body", "copied"), BODIES)
def test_a_copy_is_made_of_any_message(body: Any, copied: bytes) -> None:
    """Whatever a broker holds as body, headers, properties and route, a copy is made of it."""
    message = Message(body, content_type=[1], properties={"priority": "x"})  # type: ignore[no-untyped-call]
    message.delivery_info, message.headers = {"exchange": [1]}, 5
    copy = copy_of(message)
    assert copy.body == copied
    assert (copy.headers, copy.exchange, copy.routing_key) == ({}, "", "")
    assert copy.properties["priority"] == "x"
