"""Which deaths are the same."""

from __future__ import annotations

from typing import Any

import pytest

from governor.deadletter.fingerprint import fingerprint
from governor.ports import Reason


def base(**changes: Any) -> str:
    facts: dict[str, Any] = {
        "task_name": "billing.charge",
        "reason": Reason.RETRIES_EXHAUSTED,
        "exc_chain": ("HTTPStatusError",),
        "last_frame": ("billing", "charge"),
        "http_status": 502,
        "exc_message": "order 17",
    }
    return fingerprint(**{**facts, **changes})


TABLE = [
    # change, is it the same group?
    ({}, True),  # nothing changed
    ({"exc_message": "order 18 is late"}, True),  # the text does not count when there is a frame
    ({"http_status": 503}, True),  # the same class of status
    ({"http_status": 404}, False),  # another class
    ({"http_status": None}, False),  # no status at all
    ({"task_name": "billing.refund"}, False),
    ({"reason": Reason.NOT_IDEMPOTENT}, False),
    ({"exc_chain": ("HTTPStatusError", "OSError")}, False),  # caused by something else
    ({"last_frame": ("billing", "refund")}, False),
]


@pytest.mark.parametrize(("change", "same"), TABLE)
def test_grouping(change: dict[str, Any], same: bool) -> None:
    """Two deaths group when task, reason, types, frame and status class agree."""
    assert (base(**change) == base()) is same


MESSAGES = [
    # two messages without a frame, same group?
    ("order 17 failed", "order 18 failed", True),  # numbers vary
    (
        "id 6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "id 11111111-8b86-d011-b42d-00c04fc964ff",
        True,
    ),  # so do ids
    ("at 0x7fa0", "at 0x1b2c", True),  # and addresses
    ("bank away", "card declined", False),  # words tell them apart
    ("customer cus_Nf83kd", "customer cus_Zx9", True),  # ids with letters
    ("no customer 'Ann'", "no customer 'Bob Lee'", True),  # quoted names
    ('no customer "Ann"', 'no customer "Bob, Lee"', True),
    ("can't find it, isn't there", "can't find you, isn't there", False),  # apostrophes
    ("GET https://api/a?b=1", "GET https://api/c", True),  # URLs
    ("bounced: ann@example.org", "bounced: bob.lee@mail.example", True),  # addresses
    ("at 10.0.0.1:443", "at 192.168.7.9:5432", True),
    ("on 2026-03-12T10:00:00Z", "on 2025-01-02T11:22:33Z", True),
    ("key deadbeefcafe", "key abcdefabcdef", True),  # hexadecimal without a digit
    ("a\n b", "a b", True),  # space
    ("x" * 4_000 + " 1", "x" * 4_000 + " 2", True),  # long
    ("'" + "7" * 350 + "' is away", "'" + "8" * 20 + "' is away", True),  # long and quoted
]


@pytest.mark.parametrize(("one", "other", "same"), MESSAGES)
def test_without_a_frame_the_words_count(one: str, other: str, same: bool) -> None:
    """Only without a frame of the user's code is the message used, without what varies."""
    first = base(last_frame=None, exc_message=one)
    assert (first == base(last_frame=None, exc_message=other)) is same


def test_fields_do_not_run_into_each_other() -> None:
    """Moving a word from one field to the next is another fingerprint."""
    assert base(task_name="a", exc_chain=("b",)) != base(task_name="", exc_chain=("ab",))
