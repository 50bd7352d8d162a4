"""Options and exit codes that several commands share."""

from __future__ import annotations

import functools
import getpass
import os
import re
import socket
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn, ParamSpec

import click

from governor.cli.printing import printable
from governor.clock import SECOND, as_micros
from governor.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    NothingMatched,
    StoreUnavailable,
)

NOTHING_MATCHED, UNREACHABLE = 4, 6

_P = ParamSpec("_P")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class ByDefault(click.Group):
    """A group that takes whatever is none of its commands as arguments of :attr:`default`."""

    default = "show"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.commands, *self.get_help_option_names(ctx)}
        return super().parse_args(ctx, args if args and args[0] in known else [self.default, *args])


def exit_codes(command: Callable[_P, int]) -> Callable[_P, NoReturn]:
    """Turn what a command returns or raises into its exit code."""

    @functools.wraps(command)
    def run(*args: _P.args, **options: _P.kwargs) -> NoReturn:
        try:
            code = command(*args, **options)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        except NothingMatched as error:
            click.echo(printable(error), err=True)
            code = NOTHING_MATCHED
        except (StoreUnavailable, DatabaseUnavailable) as error:
            click.echo(f"Error: {printable(error)}", err=True)
            code = UNREACHABLE
        raise click.exceptions.Exit(code)

    return run


def reason(context: click.Context, option: click.Parameter, value: str) -> str:
    """Check the reason for a change, which is kept."""
    if not value.strip():
        raise click.BadParameter("it is empty: say why, for the record", context, option)
    return value.strip()


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


def instant(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """An instant in ISO 8601 with its zone, in microseconds since the epoch."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(
            f"{value!r} is no instant. Write it with its zone, like 2026-01-31T18:00:00Z",
            context,
            option,
        )
    return as_micros(moment)


def key(
    context: click.Context, option: click.Parameter, value: str | tuple[str, ...] | None
) -> object:
    """``account=acme`` as a pair; of an option that may be given often, several."""
    if value is None:
        return None
    if not isinstance(value, str):
        return tuple(key(context, option, each) for each in value)
    argument, equals, given = value.partition("=")
    if not equals or not argument.isidentifier():
        raise click.BadParameter(
            f"{value!r} names no argument. Write account=acme", context, option
        )
    return argument, given


def actor() -> str:
    """Name the person who runs the command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
