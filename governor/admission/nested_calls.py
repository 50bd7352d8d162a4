"""Calls inside one execution of a task, as far as they are seen.

They decide whether the task may be started again. Seen are the calls of ``Upstream.call``, and
governed tasks that are called like functions; not the call that a task's own admission is for.
A thread of the body's own is seen when it runs in a copy of the body's context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Self

from governor.errors import Throttled
from governor.foreign import attribute
from governor.policy.failure import causes
from governor.policy.retry_after import throttled_from_exception


@dataclass(slots=True)
class NestedCalls:
    """The calls of one execution: those made within its ``with`` block.

    Attributes:
        made: those that were made, or may have been.
        told: exceptions and responses in which an upstream refused, and the fleet knows.
    """

    made: set[Began] = field(default_factory=set)
    told: list[object] = field(default_factory=list)
    _outside: Token[NestedCalls | None] | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self._outside = _current.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._outside is not None
        _current.reset(self._outside)

    def was_told(self, exc: BaseException) -> bool:
        """Tell whether the refusal that this exception carries has paused its upstream."""
        said = [thing for link in causes(exc) for thing in (link, attribute(link, "response"))]
        return any(told is thing for told in self.told for thing in said)


@dataclass(frozen=True, slots=True, eq=False)
class Began:
    """A call that is being made.

    Attributes:
        inside: the execution it is made in, ``None`` outside of one.
    """

    inside: NestedCalls | None

    def refused(self, told: object = None) -> None:
        """Note that the upstream said it did not take the call.

        Args:
            told: the exception or the response in which it said so, once the fleet knows.
        """
        if self.inside is not None:
            self.inside.made.discard(self)
            if told is not None:
                self.inside.told.append(told)


_current: ContextVar[NestedCalls | None] = ContextVar("governor_inside", default=None)


def began() -> Began:
    """Note that a call is made from now on."""
    began = Began(_current.get())
    if began.inside is not None:
        began.inside.made.add(began)
    return began


@contextmanager
def call() -> Iterator[None]:
    """A call whose exception says whether it was taken."""
    made = began()
    try:
        yield
    except Exception as exc:
        if isinstance(exc, Throttled) or throttled_from_exception(exc, 0) is not None:
            made.refused()
        raise
