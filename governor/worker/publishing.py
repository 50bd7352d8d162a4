"""Copies of messages that a worker publishes: with a countdown, or as the next attempt."""

from __future__ import annotations

from typing import Any

from governor.clock import SECOND
from governor.errors import Unroutable
from governor.governor import Governor
from governor.ports import MessageCopy
from governor.worker.delays import Delays
from governor.worker.publisher import Publisher

AGAIN = SECOND
"""Microseconds for which a broker that did not answer is left alone."""


class Publishing:
    """Publishing of one worker, from its loop.

    A thread for it was measured to be slower by far: each of its turns waits for the interpreter
    while the loop is busy. Celery's own acknowledgements block the loop in the same way; a broker
    that did not answer is left alone for a moment.

    Attributes:
        delays: where a countdown waits.
    """

    def __init__(self, governor: Governor) -> None:
        self._clock = governor.clock
        self._publisher: Any = Publisher(governor.app)
        self._away_until = 0
        self.delays = Delays(governor)

    def publish(self, copy: MessageCopy, eta: int) -> Exception | None:
        """Publish a copy at once, and return what went wrong. The copy carries the wall-clock
        microsecond ``eta`` at which it is to come back."""
        if self._clock.monotonic() < self._away_until:
            return TimeoutError("the broker did not answer a moment ago")
        sent = self.delays.delayed(copy, eta - self._clock.wall())
        try:
            self._publisher(sent)
        except Unroutable as exc:
            # The broker answers, and would say the same of this copy again.
            return exc
        except Exception as exc:
            if sent is not copy:
                self.delays.failed(exc)
            self._away_until = self._clock.monotonic() + AGAIN
            return exc
        return None
