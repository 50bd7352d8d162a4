"""Printing: tables on a terminal, tab-separated lines in a pipe, JSON.

What is printed was often written by others: nothing of it reaches a terminal as a control
character or as markup.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from governor.clock import as_datetime

# C0 and C1 controls, DEL, line and paragraph separators, zero-width and direction marks.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_WHOLE = {"id", "fingerprint"}


def printable(value: object, *, lines: bool = False) -> str:
    """``value`` with every character a terminal would act on written as an escape.

    Args:
        lines: keep line feeds and turn tabs into spaces; for texts of several lines.
    """
    text = "" if value is None else str(value)
    if lines:
        return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))
    return _CONTROL.sub(_escape, text)


def when(micros: int | None) -> str | None:
    """A time for people and for JSON: ISO 8601 in UTC."""
    return None if micros is None else as_datetime(micros).isoformat(timespec="milliseconds")


def as_json(value: object) -> None:
    """One JSON document on stdout, ASCII only."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> None:
    """Rows under headings.

    Args:
        right: the heading whose column holds numbers.
    """
    if not sys.stdout.isatty():
        click.echo("\t".join(headings))
        for row in rows:
            click.echo("\t".join(printable(cell) for cell in row))
        return
    Console(file=sys.stdout).print(drawn(headings, rows, right=right))


def drawn(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> Table:
    """The table a terminal is shown; see :func:`table`."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(
            heading,
            justify="right" if heading == right else "left",
            no_wrap=heading in _WHOLE,
            overflow="fold",  # a name cut short cannot be copied into the next command
        )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
