"""Facts of an exception, whatever its class does."""

from __future__ import annotations

import json
import pickle
import sys
import types
from typing import Any

import httpx
import pytest
from billiard.einfo import ExceptionInfo

from governor.foreign import attribute, is_from_outside, quietly, text_of
from governor.policy.failure import causes, exception_facts, facts_of, type_name


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
    """The copy that a pool process sends to the main process is read like a traceback."""

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


class Text(str):
    """A text that cannot be pickled, as a client library's may be."""

    def __reduce__(self) -> Any:
        raise TypeError


def test_facts_survive_pickling() -> None:
    """Facts are plain texts and numbers, whatever types the exception gave."""

    class Odd(Exception):
        __module__ = 7  # type: ignore[assignment]

        def __str__(self) -> str:
            return Text("lone \ud800")

    facts = facts_of(caught(lambda: (_ for _ in ()).throw(Odd()))[1])
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert type(facts.exc_message) is str
    assert facts.exc_type == type_name(Odd)
    assert type_name(Odd).endswith("Odd")


def test_members_of_a_group_are_named_once_and_in_order() -> None:
    """Which call fails first, and how many fail alike, is chance: the deaths are one group."""
    one, other = ValueError("a"), KeyError("b")
    chains = {
        facts_of(ExceptionGroup("calls", members)).exc_chain
        for members in ([one, other], [other, one], [other, one, ValueError("c"), KeyError()])
    }
    assert chains == {("ExceptionGroup", "KeyError", "ValueError")}


def test_causes_are_explicit() -> None:
    """The exception that an error was raised from is the same failure; the one that was being
    handled is another."""
    first, second, third = ValueError(), KeyError(), TypeError()
    third.__cause__, third.__context__ = second, second
    second.__context__ = first
    assert list(causes(third)) == [third, second]
    second.__cause__ = third
    assert list(causes(third)) == [third, second]


def raising(exc: BaseException) -> Any:
    def read() -> Any:
        raise exc

    return read


@pytest.mark.parametrize(
    "exc", [ValueError(), KeyboardInterrupt(), GeneratorExit(), SystemExit(3), MemoryError()]
)
def test_foreign_code_raises_nothing(exc: BaseException) -> None:
    """Whatever somebody's property raises, there is an answer."""
    assert quietly(raising(exc), "none") == "none"

    class Thing:
        there = property(lambda _: raising(exc)())

        def __str__(self) -> str:
            raise exc

    assert attribute(Thing(), "there") is None
    assert attribute(Thing(), "missing") is None
    assert text_of(Thing()) is None


class GreenletExit(BaseException):
    __module__ = "greenlet"


@pytest.mark.parametrize("exc", [SystemExit(-241), GreenletExit()])
def test_the_pool_ends_a_body(exc: BaseException) -> None:
    """A time limit or a shutdown is not swallowed."""
    assert is_from_outside(exc)
    with pytest.raises(type(exc)):
        quietly(raising(exc), None)
