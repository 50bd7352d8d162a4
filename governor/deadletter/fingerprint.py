"""What an exception tells about a death, and the fingerprint that groups deaths.

A fingerprint is made of the task, the reason, the chain of exception types, the last frame
of the user's own code (module and function; a line number would split the group at every
release) and the class of the HTTP status. The message's text is used only when there is no
such frame, with its digits and ids taken out.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from governor.ports import Reason

FINGERPRINT_VERSION = 1
_MAX_CHAIN = 10
_LIBRARIES = tuple(
    sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
)
_NEVER_OWN = frozenset({"billiard", "celery", "governor", "kombu", "tenacity", "vine"})
_VARIABLE = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{12,}\b|\d+", re.I
)


@dataclass(frozen=True, slots=True)
class ExceptionFacts:
    """The fields of a :class:`~governor.ports.Death` that an exception fills. Not redacted."""

    exc_type: str | None
    exc_message: str | None
    exc_chain: tuple[str, ...]
    last_frame: tuple[str, str] | None
    http_status: int | None
    traceback: str | None


def exception_facts(
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    tb: object,
    *,
    task_name: str | None = None,
) -> ExceptionFacts:
    """What is known from an exception. Never raises because of the exception's own code.

    Args:
        tb: a traceback, billiard's copy of one, its text, or ``None``.
        task_name: the package it begins with counts as the user's own code even when it
            is installed among the libraries.
    """
    chain = tuple(_exceptions(exc)) if exc is not None else ()
    outermost = type(exc) if exc is not None else exc_type
    return ExceptionFacts(
        exc_type=None if outermost is None else _type_name(outermost),
        exc_message=None if exc is None else _message(exc),
        exc_chain=tuple(_type_name(type(link)) for link in chain)
        or (() if outermost is None else (_type_name(outermost),)),
        last_frame=_last_own_frame(tb, (task_name or "").partition(".")[0]),
        http_status=next(filter(None, map(_http_status, chain)), None),
        traceback=_traceback_text(exc, tb),
    )


def fingerprint(
    *,
    task_name: str | None,
    reason: Reason,
    exc_chain: Sequence[str] = (),
    last_frame: tuple[str, str] | None = None,
    http_status: int | None = None,
    exc_message: str | None = None,
) -> str:
    """32 hexadecimal digits, equal for deaths with the same cause."""
    parts = [
        str(FINGERPRINT_VERSION),
        task_name or "",
        reason.value,
        ">".join(exc_chain),
        ":".join(last_frame) if last_frame else "",
        f"{http_status // 100}xx" if http_status else "",
    ]
    if last_frame is None and exc_message:
        parts.append(_VARIABLE.sub("#", exc_message[:500]))
    joined = "\0".join(parts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(joined).hexdigest()[:32]


def _exceptions(exc: BaseException) -> Iterator[BaseException]:
    """``exc`` and what it was raised from, outermost first, as Python would print them."""
    seen: set[int] = set()
    link: BaseException | None = exc
    while link is not None and id(link) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(link))
        yield link
        if link.__cause__ is not None or link.__suppress_context__:
            link = link.__cause__
        else:
            link = link.__context__


def _type_name(kind: type[BaseException]) -> str:
    module = getattr(kind, "__module__", "builtins")
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as error:  # noqa: BLE001 - the user's __str__ may raise anything
        return f"({_type_name(type(exc))} has no text: its __str__ raised {type(error).__name__})"


def _http_status(exc: BaseException) -> int | None:
    """As httpx and requests (``response.status_code``), aiohttp and urllib carry it."""
    try:
        response = getattr(exc, "response", None)
        found = (
            getattr(response, "status_code", None),
            getattr(response, "status", None),
            getattr(exc, "status_code", None),
            getattr(exc, "status", None),
            getattr(exc, "code", None),
        )
    except Exception:  # noqa: BLE001 - a property that raises has no status to tell
        return None
    for status in found:
        if isinstance(status, int) and 100 <= status <= 599:
            return int(status)
    return None


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
            found = (str(module), str(function))
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
    try:
        # Any: billiard's copy of a traceback prints like one and is none.
        return "".join(traceback.format_exception(type(exc), exc, cast(Any, tb)))
    except Exception as error:  # noqa: BLE001 - printing runs the user's code
        return f"({_type_name(type(exc))}: not printable, {type(error).__name__})"
