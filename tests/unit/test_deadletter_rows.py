"""A death as the columns of its row."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest

from governor.deadletter.rows import message_sha256, row_values
from governor.deadletter.texts import Texts, name, storable
from governor.ports import Death, Reason
from tests.deaths import DEAD_AT, death, message


def hide(text: str) -> str:
    return text.replace("s3cret", "[hidden]")


def row(dead: Death, **options: Any) -> dict[str, Any]:
    return row_values(dead, row_id="id", recorded_at=DEAD_AT + 1, redact=hide, **options)


def test_every_text_is_redacted() -> None:
    """No text column holds what the redactor hides; the message itself stays exact."""
    dead = death(
        exc_message="token s3cret",
        traceback="line\ns3cret",
        args_redacted="('s3cret',)",
        attempt_log=[{"error": "s3cret", "n": 1, "s": {"deep": "s3cret"}}],
        message=message(body=b"s3cret"),
    )
    values = row(dead)
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    assert not [key for key, value in texts.items() if "s3cret" in value]
    assert values["exc_message"] == "token [hidden]"
    assert values["payload"] == b"s3cret"


def test_a_broken_redactor_loses_the_text_and_not_the_row() -> None:
    """When redaction raises, nothing unredacted is written, and the row says so."""

    def broken(text: str) -> str:
        raise KeyError(text)

    values = row_values(death(traceback="t"), row_id="i", recorded_at=1, redact=broken)
    assert values["exc_message"] is None
    assert values["traceback"] is None
    assert "exc_message: left out, redaction raised KeyError" in values["truncated"]


def test_long_texts_keep_both_ends_and_say_so() -> None:
    """A cut text keeps its beginning and its end, and the cut is noted."""
    values = row(death(exc_message="begin" + "x" * 10_000 + "end"))
    assert len(values["exc_message"]) <= 4_000
    assert values["exc_message"].startswith("begin")
    assert values["exc_message"].endswith("end")
    assert "exc_message: 10008 characters cut to 4000" in values["truncated"]


def test_a_secret_at_the_redaction_limit_does_not_leak() -> None:
    """Where redaction stops reading, a secret cut in half would pass: its part is dropped."""
    text = "a" * (1_000_000 - 4) + "s3cret"
    kept = str(Texts(hide).redacted("traceback", text, 60_000))
    assert "s3" not in kept


def test_the_attempt_log_keeps_the_first_and_the_last_fifty() -> None:
    """Of many attempts the first and the last fifty are kept, with a note."""
    values = row(death(attempt_log=[{"n": n} for n in range(1_000)]))
    kept = [entry["n"] for entry in json.loads(values["attempt_log"])]
    assert kept == [0, *range(950, 1_000)]
    assert "1000 attempts" in values["truncated"]


def test_a_message_over_the_limit_is_not_kept_and_the_row_says_so() -> None:
    """Too large a body leaves its size, its hash and an impossible replay."""
    body = b"x" * 1_001
    values = row(death(message=message(body=body)), max_payload_bytes=1_000)
    assert values["payload"] is None
    assert values["payload_size"] == 1_001
    assert values["payload_sha256"] == hashlib.sha256(body).hexdigest()
    assert "over the limit of 1000" in values["truncated"]
    assert values["replay_verdict"] == "impossible"
    assert row(death(message=message(body=body[1:])), max_payload_bytes=1_000)["payload"]


def test_headers_that_cannot_be_kept_make_a_replay_impossible() -> None:
    """A header of an unknown type is named, and the message is never sent again changed."""
    values = row(death(message=message(headers={"odd": object()})))
    assert values["replay_verdict"] == "impossible"
    assert "not exact" in values["truncated"]


def test_names_fit_their_columns_and_stay_different() -> None:
    """A name longer than its column is cut, and two such names stay two names."""
    one, other = name("x" * 300 + "a"), name("x" * 300 + "b")
    assert len(one) == len(other) == 255
    assert one != other
    assert name("short") == "short"


HOSTILE = [
    # a Death nobody should make, and which the handler must survive
    {"waited_seconds": math.nan},  # NaN is NULL in SQLite
    {"delivery": 10**30, "first_failed_at": 10**30, "deferrals": -(10**30)},  # beyond BIGINT
    {"http_status": 10**9},  # no status
    {"task_name": "nul\0 and half \ud800"},  # refused by PostgreSQL
    {"attempt_log": [{"e": math.inf, "b": b"\xff"}]},  # not JSON
]


@pytest.mark.parametrize("changes", HOSTILE)
def test_hostile_values_become_a_row(changes: dict[str, Any]) -> None:
    """Whatever a message claims, its row has values a database takes."""
    values = row(death(**changes))
    assert math.isfinite(values["waited_seconds"])
    assert all(-(2**63) <= v < 2**63 for v in values.values() if isinstance(v, int))
    assert values["http_status"] in (None, 502)
    assert "\0" not in values["task_name"]
    values["task_name"].encode()


def test_storable_leaves_ordinary_text_alone() -> None:
    """Only what databases refuse is changed."""
    assert storable("Zoë\n\t€ 𝄞") == "Zoë\n\t€ 𝄞"


def test_a_message_without_a_task_id_is_its_content() -> None:
    """Body, headers and queue make it another message; the time of death does not."""
    junk = death(None, reason=Reason.UNDECODABLE)
    assert message_sha256(junk) == message_sha256(
        death(None, reason=Reason.UNDECODABLE, dead_at=DEAD_AT + 5)
    )
    for other in (
        message("none", body=b"other"),
        message("none", headers={"x": 1}),
        message("none", queue="other"),
    ):
        assert message_sha256(death(None, reason=Reason.UNDECODABLE, message=other)) != (
            message_sha256(junk)
        )
