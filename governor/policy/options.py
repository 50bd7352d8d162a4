"""Options of declarations: each by its name, a span of time as seconds or a timedelta."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from governor.clock import micros
from governor.errors import DeclarationError, did_you_mean

Declared = TypeVar("Declared", bound=type)

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


_NOT_BY_NAME = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def checked(cls: Declared) -> Declared:
    """Have a class answer wrong options with a :class:`DeclarationError` that names the one that
    was meant."""
    init: Any = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)

    @wraps(init)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as exc:
            kind = type(self).__name__
            raise _refused(kind, signature, args, kwargs, str(exc)) from None
        init(self, *args, **kwargs)

    cls.__init__ = made  # type: ignore[misc]
    return cls


def _refused(
    kind: str,
    signature: inspect.Signature,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    said: str,
) -> DeclarationError:
    """Say which argument of a class is wrong: unknown, given twice, by position, or missing."""
    parameters = [*signature.parameters.values()][1:]
    by_position = [each.name for each in parameters if each.kind in _BY_POSITION]
    several = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
    by_name = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    known = [*by_position, *by_name]
    for name in kwargs:
        if name in several:
            return DeclarationError(
                name, f"{kind} takes them by position", f"Write {kind}(…, {name[:-1]}, {name[:-1]})"
            )
        if name not in known:
            return DeclarationError(name, f"{kind} has no such option", did_you_mean(name, known))
        if name in by_position[: len(args)]:
            return DeclarationError(name, f"{kind} is given it twice", "Give it once")
    if not several and len(args) > len(by_position):
        free = [name for name in by_name if name not in kwargs]
        extra = args[len(by_position)]
        if not free:
            return DeclarationError(kind, f"{extra!r} is one argument too many", "Leave it out")
        return DeclarationError(
            free[0], f"{kind} is given {extra!r} by position",
            f"Name the option, like {free[0]}={extra!r}",
        )  # fmt: skip
    for each in parameters:
        given = each.name in kwargs or each.name in by_position[: len(args)]
        if each.default is each.empty and each.name in known and not given:
            return DeclarationError(each.name, f"{kind} needs it", f"Add {each.name}=…")
    return DeclarationError(kind, said, "Look at its options in the documentation")


def span(field: str, value: object, low: float, high: float) -> int:
    """Read a span of time: seconds or a timedelta, as microseconds.

    Raises:
        DeclarationError: it is none, or out of range.
    """
    length = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(length, bool) or not isinstance(length, int | float) or not low <= length <= high:
        raise DeclarationError(
            field,
            f"{value!r} is not a span of time",
            f"Give {low:g} s to {_length(high)}: seconds, or a timedelta",
        )
    return micros(length)


def parameters_by_name(function: object) -> tuple[inspect.Parameter, ...] | None:
    """Return the parameters of a function that can be called with arguments by name; ``None`` for
    what cannot, or does not say, as some builtins."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    by_name = all(each.kind not in _NOT_BY_NAME for each in parameters)
    return tuple(parameters) if by_name else None


def _length(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:g} days" if days > 1 else f"{seconds:g} s"
