"""Results that a governed body hands to the worker's main process.

Decisions are values; these exceptions only carry them over Celery's border. The main
process acts on them, because it alone has the exact message: it publishes first and
acknowledges after.
"""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import Ignore, Retry

from governor.clock import SECOND

RUN_KEY = "governor_run"
"""Where the worker's dispatcher tells the body until when its admission is good, and what else the
body has to know of it."""

STORE_AGAIN = SECOND
"""When a task is started again whose call inside found the limiter store away."""


class NotNow(Ignore):  # type: ignore[misc]
    """A body that made no call: it asks for another admission and runs then.

    Attributes:
        pause: microseconds for which the upstream asked the fleet to stay away; ``None`` if it did
            not: the body was merely too late for its slot.
        wait: microseconds until this task may be admitted again, because a call inside it was
            not admitted; its upstream is not paused. ``None``: at once.
        late: microseconds by which the body came too late.
    """

    def __init__(self, pause: int | None = None, wait: int | None = None, late: int = 0) -> None:
        self.pause = pause
        self.wait = wait
        self.late = late
        super().__init__(pause, wait, late)

    def __reduce__(self) -> tuple[Any, ...]:
        # Celery's frame refers to the exception, whose traceback refers to the frame, and with it
        # to the arguments. That circle would stand in the pool's process until a collection.
        self.__traceback__ = None
        return type(self), (self.pause, self.wait, self.late)

    def __str__(self) -> str:
        if self.wait is not None:
            return "a call inside it has to wait"
        return "too late for its slot" if self.pause is None else "throttled by the upstream"


class Again(Retry):  # type: ignore[misc]
    """A failed call of an idempotent task: its next attempt is to be published.

    Attributes:
        wait: microseconds until then.
    """

    def __init__(
        self, message: Any = None, exc: Any = None, when: Any = None, wait: int = 0
    ) -> None:
        self.wait = wait
        super().__init__(message, exc, when)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc, self.when, self.wait)


def failure_info(exc: BaseException) -> ExceptionInfo:
    """Make of an exception what Celery's handlers take: it, with a traceback that ends here."""
    try:
        raise exc  # noqa: TRY301 - billiard needs a traceback to copy
    except BaseException:
        return ExceptionInfo()
