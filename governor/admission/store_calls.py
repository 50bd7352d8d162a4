"""Round trips to the limiter store, measured for whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from governor.clock import Clock
from governor.events import Emitter, StoreAnswered

_T = TypeVar("_T")

StoreCall = Literal["admit", "settle", "park", "release", "steer"]


def timed(
    events: Emitter, clock: Clock, call: StoreCall, work: Callable[[], _T], questions: int = 1
) -> _T:
    """Do one round trip, and tell how long its answer took."""
    if not events.listeners:
        return work()
    started = clock.monotonic()
    answer = work()
    events.emit(StoreAnswered(clock.wall(), call, questions, clock.monotonic() - started))
    return answer
