"""Facts of a failure, read from its exception where it was raised: once the exception has been
pickled, nothing else is left of it."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from governor.foreign import attribute, is_from_outside, quietly, text_of
from governor.headers.http_message import response_of, status_of

LONGEST_TEXT = 1_000_001
"""Characters kept of a message or a traceback: more than redaction reads, which notes the cut."""

_MAX_LINKS = 10
_LIBRARIES = tuple(
    sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
)
_NEVER_OWN = frozenset({"billiard", "celery", "governor", "kombu", "tenacity", "vine"})


@dataclass(frozen=True, slots=True)
class ExceptionFacts:
    """Facts of an exception, in plain texts and numbers. Not redacted.

    Attributes:
        exc_type: its class, with the module.
        exc_chain: the classes of it and of what it was raised from, outermost first.
        last_frame: ``(module, function)`` of the deepest frame of the user's own code.
        http_status: status of the upstream's response, when there was one.
    """

    exc_type: str | None = None
    exc_message: str | None = None
    exc_chain: tuple[str, ...] = ()
    last_frame: tuple[str, str] | None = None
    http_status: int | None = None
    traceback: str | None = None


def exception_facts(
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    tb: object,
    *,
    task_name: str | None = None,
) -> ExceptionFacts:
    """Read an exception. Never raises because of the exception's own code.

    Args:
        tb: a traceback, billiard's copy of one, its text, or ``None``.
        task_name: the package it begins with counts as the user's own code even when it
            is installed among the libraries.
    """
    kind = type(exc) if exc is not None else exc_type
    if kind is None:
        return ExceptionFacts()
    links = list(_as_printed(exc)) if exc is not None else []
    return ExceptionFacts(
        exc_type=type_name(kind),
        exc_message=None if exc is None else _message(exc),
        exc_chain=tuple(type_name(type(link)) for link in links) or (type_name(kind),),
        last_frame=quietly(lambda: _last_own_frame(tb, (task_name or "").partition(".")[0]), None),
        http_status=next(filter(None, map(http_status, links)), None),
        traceback=_traceback_text(exc, tb),
    )


def facts_of(exc: BaseException, *, task_name: str | None = None) -> ExceptionFacts:
    """Read an exception that has just been caught, in the process in which it was raised."""
    return exception_facts(type(exc), exc, _own(exc, "__traceback__"), task_name=task_name)


def http_status(exc: BaseException) -> int | None:
    """The status of the response an HTTP error carries, ``None`` without one."""
    return status_of(response_of(exc))


def causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield ``exc``, what it was explicitly raised from, and the members of groups among them.

    What was merely being handled when it was raised is another failure.
    """

    def behind(link: BaseException) -> list[BaseException]:
        cause = _own(link, "__cause__")
        return [*_members(link), *([] if cause is None else [cause])]

    return _linked(exc, behind)


def type_name(kind: type[BaseException]) -> str:
    """Name a class with its module; a built-in one without."""
    module, name = attribute(kind, "__module__"), attribute(kind, "__qualname__")
    name = text_of(name) if isinstance(name, str) else None
    module = text_of(module) if isinstance(module, str) else None
    if name is None:
        name = type.__dict__["__name__"].__get__(kind)
    return name if module in {None, "builtins"} else f"{module}.{name}"


def _own(exc: BaseException, name: str) -> Any:
    """Read what Python itself noted at an exception, whatever its class makes of ``name``."""
    return BaseException.__dict__[name].__get__(exc)


def _members(exc: BaseException) -> list[BaseException]:
    if not isinstance(exc, BaseExceptionGroup):
        return []
    found: list[BaseException] = quietly(
        lambda: list(BaseExceptionGroup.exceptions.__get__(exc)), []
    )
    # Which of several calls fails first is chance, and must not split a group of deaths.
    return sorted(found, key=lambda member: type_name(type(member)))


def _as_printed(exc: BaseException) -> Iterator[BaseException]:
    """``exc``, members of groups, and what was being handled, as Python would print them."""

    def behind(link: BaseException) -> list[BaseException]:
        cause = _own(link, "__cause__")
        if cause is None and not _own(link, "__suppress_context__"):
            cause = _own(link, "__context__")
        return [*_kinds(_members(link)), *([] if cause is None else [cause])]

    return _linked(exc, behind)


def _linked(
    exc: BaseException, behind: Callable[[BaseException], list[BaseException]]
) -> Iterator[BaseException]:
    """Yield ``exc`` and what is behind it, each once and not too many."""
    pending, seen = [exc], set[int]()
    while pending and len(seen) < _MAX_LINKS:
        link = pending.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            pending += behind(link)


def _kinds(members: list[BaseException]) -> list[BaseException]:
    """One of each class: how many calls failed alike is chance, too."""
    return list({type(member): member for member in reversed(members)}.values())[::-1]


def _message(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))[:LONGEST_TEXT]
    except BaseException as error:
        if is_from_outside(error):
            raise
        kind = type_name(type(exc))
        return f"({kind} has no text: its __str__ raised {type_name(type(error))})"


def _last_own_frame(tb: object, own_package: str) -> tuple[str, str] | None:
    """``(module, function)`` of the deepest frame that is not a library's.

    Frames are read by name: billiard's copies of tracebacks have the same attributes.
    """
    found: tuple[str, str] | None = None
    while tb is not None and not isinstance(tb, str):
        frame = getattr(tb, "tb_frame", None)
        code = getattr(frame, "f_code", None)
        names = getattr(frame, "f_globals", None)
        module = names.get("__name__") if isinstance(names, dict) else None
        path, function = getattr(code, "co_filename", None), getattr(code, "co_name", None)
        known = isinstance(module, str) and isinstance(path, str) and isinstance(function, str)
        if known and _is_own(str(module), str(path), own_package):
            found = (str.__str__(module), str.__str__(function))
        tb = getattr(tb, "tb_next", None)
    return found


def _is_own(module: str, path: str, own_package: str) -> bool:
    top = module.partition(".")[0]
    if top in _NEVER_OWN or path.startswith("<frozen "):
        return False
    return (bool(own_package) and top == own_package) or not path.startswith(_LIBRARIES)


def _traceback_text(exc: BaseException | None, tb: object) -> str | None:
    """As Python prints it, without the values of any variable."""
    if isinstance(tb, str):
        return tb
    if exc is None:
        return None
    # Any: billiard's copy of a traceback prints like one and is none.
    text = quietly(lambda: "".join(traceback.format_exception(type(exc), exc, cast(Any, tb))), None)
    return f"({type_name(type(exc))}: not printable)" if text is None else text[:LONGEST_TEXT]
