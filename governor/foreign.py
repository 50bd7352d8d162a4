"""Reading objects of somebody else's classes: whatever their code raises, nothing gets out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_POOLS = frozenset({"celery", "gevent", "greenlet"})


def quietly(read: Callable[[], T], instead: T) -> T:
    """Call ``read``, and give ``instead`` if it raises. Only a pool's ending of the body passes."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - the code of somebody else's class
        return instead
    except BaseException as exc:
        if is_from_outside(exc):
            raise
        return instead


def is_from_outside(exc: BaseException) -> bool:
    """Tell whether the pool ends the body: at a time limit, a shutdown, a termination.

    billiard's signal handler exits with ``signum - 256``; gevent and Celery raise classes of
    their own.
    """
    if isinstance(exc, Exception):
        return False
    if isinstance(exc, SystemExit) and isinstance(exc.code, int) and -256 < exc.code <= -192:
        return True
    return any(kind.__module__.partition(".")[0] in _POOLS for kind in type(exc).__mro__)


def attribute(thing: Any, name: str) -> Any:
    """Read an attribute; ``None`` where there is none, or reading it raises."""
    return quietly(lambda: getattr(thing, name, None), None)


def text_of(thing: object) -> str | None:
    """Convert to text, of exactly that type; ``None`` if it has none."""
    return quietly(lambda: str.__str__(str(thing)), None)
