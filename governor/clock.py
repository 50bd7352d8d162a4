"""The only reader of clocks. (The demo, which measures the governor from outside, has its own.)

All time in the governor is an ``int`` of microseconds. Decisions are made on the store's
clock (Redis ``TIME``), which every worker shares; a worker's own clocks only measure how
long to wait. Code below the shell takes time as an argument; the shell takes a
:class:`Clock`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """The clocks of the machine, as the shell asks for them."""

    def wall(self) -> int:
        """Microseconds since the Unix epoch. For people and for ETAs, never for limits."""
        ...

    def monotonic(self) -> int:
        """Microseconds on a clock that never steps, comparable between this host's processes."""
        ...

    def sleep(self, micros: int) -> None:
        """Block the caller for ``micros`` (zero or less: return at once)."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1000

    def sleep(self, micros: int) -> None:
        if micros > 0:
            time.sleep(micros / SECOND)


def seconds(micros: int) -> float:
    """``micros`` as seconds, for libraries that want a float."""
    return micros / SECOND


def micros(seconds_: float) -> int:
    """Seconds as whole microseconds, rounded up: a wait is never shortened by rounding."""
    whole = int(seconds_ * SECOND)
    return whole if whole >= seconds_ * SECOND else whole + 1


def as_datetime(wall: int) -> datetime:
    """A wall-clock instant in microseconds as an aware UTC datetime, exactly."""
    return _EPOCH + timedelta(microseconds=wall)


def as_micros(moment: datetime) -> int:
    """An aware datetime as wall-clock microseconds, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
