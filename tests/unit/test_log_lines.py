"""Foreign texts stay on one line of the governor's log."""

from __future__ import annotations

import logging

import pytest

from governor.log_lines import ONE_LINE, SafeLogger, one_line

# a text, and as it is logged
TEXTS = [
    ("plain text, 50 % ünïcödé", "plain text, 50 % ünïcödé"),
    ("a\nb\r\tc", r"a\nb\r\tc"),
    ("\x1b[31mred", r"\x1b[31mred"),
    ("\0\x7f\x9b", r"\x00\x7f\x9b"),
    ("\u2028\u2029", r"\u2028\u2029"),
    ("\ud800", r"\ud800"),
]


@pytest.mark.parametrize(("text", "logged"), TEXTS)
def test_control_characters_are_escaped(text: str, logged: str) -> None:
    """Newlines, escape sequences and lone surrogates are shown as what they are."""
    assert one_line(text) == logged


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_the_arguments_of_a_log_record_are_escaped() -> None:
    """Texts and errors are escaped, numbers are left as they are, and the code of an error ends
    nothing."""
    log = logging.Logger("test")
    log.addFilter(ONE_LINE)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.error("Task %s[%d] %.1f: %s %s", "a\nb", 1, 2.0, ValueError("c\nd"), Unspeakable())
    assert said == [r"Task a\nb[1] 2.0: c\nd Unspeakable"]


def test_a_line_that_cannot_be_written_stops_nothing() -> None:
    """A handler that raises is no failure of the code that logs, and a line names its caller."""
    log = logging.Logger("test")
    lines: list[logging.LogRecord] = []

    def emit(record: logging.LogRecord) -> None:
        lines.append(record)
        raise OSError("no space left on device")

    handler = logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    log.addHandler(handler)
    SafeLogger(log).error("one")
    SafeLogger(log).exception("two")
    assert [(line.getMessage(), line.filename) for line in lines] == [
        ("one", "test_log_lines.py"), ("two", "test_log_lines.py")
    ]  # fmt: skip
