"""What an exception tells, and which deaths are the same."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import httpx
import pytest
from billiard.einfo import ExceptionInfo

from governor.deadletter.fingerprint import fingerprint
from governor.policy.failure import exception_facts
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


def caught(call: Any) -> tuple[type[BaseException], BaseException, Any]:
    try:
        call()
    except BaseException as error:
        return type(error), error, error.__traceback__
    raise AssertionError("nothing was raised")


def test_the_last_own_frame_is_not_a_librarys() -> None:
    """An error raised deep inside the standard library belongs to the function that called."""

    def parse_answer() -> None:
        json.loads("{")

    facts = exception_facts(*caught(parse_answer))
    assert facts.last_frame == (__name__, "parse_answer")
    assert facts.exc_type == "json.decoder.JSONDecodeError"


def test_own_code_installed_as_a_package_is_own() -> None:
    """A project installed among the libraries is recognised by its task's name."""
    module = types.ModuleType("proj.tasks")
    path = json.__file__.replace("json/__init__", "site-packages/proj/tasks")
    exec(compile("def charge(): raise ValueError", path, "exec"), module.__dict__)
    found = caught(module.charge)
    assert exception_facts(*found, task_name="proj.tasks.charge").last_frame == (
        "proj.tasks",
        "charge",
    )
    assert exception_facts(*found, task_name="other.charge").last_frame == (
        __name__,
        "caught",
    )


def test_the_chain_is_what_python_prints() -> None:
    """Causes and contexts are followed, outermost first; ``from None`` cuts them off."""

    def wrapped() -> None:
        try:
            raise KeyError("a")
        except KeyError as error:
            raise ValueError("b") from error

    def hidden() -> None:
        try:
            raise KeyError("a")
        except KeyError:
            raise ValueError("b") from None

    assert exception_facts(*caught(wrapped)).exc_chain == ("ValueError", "KeyError")
    assert exception_facts(*caught(hidden)).exc_chain == ("ValueError",)


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that cause each other are each named once."""
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert exception_facts(ValueError, one, None).exc_chain == ("ValueError", "KeyError")


class Awkward(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    @property
    def response(self) -> object:
        raise RuntimeError("no response")


def test_an_exception_that_misbehaves_is_still_described() -> None:
    """Neither a broken ``__str__`` nor a broken property gets out of the handler."""

    def call() -> None:
        raise Awkward

    facts = exception_facts(*caught(call))
    assert "RuntimeError" in str(facts.exc_message)
    assert facts.http_status is None
    assert facts.traceback is not None


def test_http_status_is_found_along_the_chain() -> None:
    """The response of an httpx error counts also when the user wrapped the error."""

    def call() -> None:
        response = httpx.Response(502, request=httpx.Request("GET", "http://bank"))
        try:
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise RuntimeError("bank") from error

    assert exception_facts(*caught(call)).http_status == 502


def test_locals_are_not_in_the_traceback() -> None:
    """The text has code lines and no values of variables."""

    def call() -> None:
        token = "s3cr" + "et-value"
        raise ValueError(len(token))

    text = str(exception_facts(*caught(call)).traceback)
    assert "raise ValueError" in text
    assert "s3cret-value" not in text


def test_billiards_copy_of_a_traceback() -> None:
    """What a pool process sends to the main process is read like a traceback."""

    def charge() -> None:
        raise ValueError("x")

    try:
        charge()
    except ValueError as error:
        info = ExceptionInfo()
        facts = exception_facts(type(error), error, info.tb)
    assert facts.last_frame == (__name__, "charge")


def test_a_traceback_that_is_only_text() -> None:
    """A text is kept as it is; there are no frames in it."""
    facts = exception_facts(ValueError, ValueError("x"), "Traceback: …")
    assert facts.traceback == "Traceback: …"
    assert facts.last_frame is None


def test_no_exception_at_all() -> None:
    """A death without an exception has no facts."""
    facts = exception_facts(None, None, None)
    assert (facts.exc_type, facts.exc_chain, facts.traceback) == (None, (), None)


def test_recursion_errors_are_described() -> None:
    """A traceback as deep as the stack is printed and searched."""

    def down() -> None:
        down()

    facts = exception_facts(*caught(down))
    assert facts.last_frame == (__name__, "down")
    assert sys.getrecursionlimit() > 0
