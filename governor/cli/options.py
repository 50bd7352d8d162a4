"""What several commands' options have in common."""

from __future__ import annotations

import getpass
import os
import re
import socket

import click

from governor.clock import SECOND

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def span(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A span such as ``24h``, in microseconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", value)
    if match is None:
        raise click.BadParameter(
            f"{value!r} is no span of time. Write 90s, 15m, 24h or 7d", context, option
        )
    return int(match[1]) * _UNITS[match[2]] * SECOND


def actor() -> str:
    """Who runs the command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
