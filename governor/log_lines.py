"""The governor's logger: a line that cannot be written stops nothing, and foreign texts stay on
one line and move no cursor."""

from __future__ import annotations

import logging
import re
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """``text`` with its control characters and lone surrogates as escapes."""
    return _UNPRINTABLE.sub(_escaped, text)


class OneLine(logging.Filter):
    """Escapes control characters in the texts and errors of a log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_plain, record.args))
        return True


ONE_LINE = OneLine()
"""The filter; adding it to a logger again changes nothing."""


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose handlers and filters may fail: what is logged is often logged before it is
    mended, and the mending must follow."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line, or none if a handler or filter raises."""
        try:
            super().log(level, msg, *args, stacklevel=kwargs.pop("stacklevel", 1) + 1, **kwargs)
        except Exception:  # noqa: BLE001 - a handler's code may raise anything
            return


LOG = SafeLogger(logging.getLogger("governor"))
"""The logger of all of the governor."""


def _plain(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, BaseException):
        try:
            return one_line(str(value))
        except BaseException:  # noqa: BLE001 - its own code may raise anything
            return type(value).__name__
    return value


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
