"""Other rate limiters that keep their state in Redis, measured beside the governor.

One module for each package; each is optional. What a limiter is told is what its own
documentation shows for several processes on one Redis; ``setting`` says it in words.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import ClassVar

MODULES = {
    "limits": "limits",
    "pyrate": "pyrate-limiter",
    "throttled": "throttled-py",
    "dramatiq": "dramatiq",
    "heimdall": "celery-heimdall",
}
"""Each module here, and the package it needs."""

_POLL_SECONDS = 0.01


class Peer:
    """One limiter, set up once in each process that asks it.

    Attributes:
        name: package and algorithm.
        setting: how it is configured.
        waits: how :meth:`acquire` waits.
        several: what asking for three limits is.
        burst: what its settings let through at once. A window cannot be told a burst; its
            whole content is one.
    """

    name: ClassVar[str]
    setting: ClassVar[str]
    waits: ClassVar[str] = "asks again every 10 ms"
    several: ClassVar[str] = "three calls in a row, not atomic"
    burst: int

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        """Connect; allow ``rate`` calls a second, and ``burst`` at once if that can be said."""
        raise NotImplementedError

    def try_acquire(self) -> bool:
        """Take one call if it is allowed now."""
        raise NotImplementedError

    def acquire(self) -> None:
        """Return when a call is allowed: by the limiter's own waiting, if it has any."""
        while not self.try_acquire():
            time.sleep(_POLL_SECONDS)

    def three(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        """Set up three limits instead of one, for :meth:`try_three`."""
        self._three = [type(self)() for _ in range(3)]
        for number, one in enumerate(self._three):
            one.setup(redis_url, rate, burst, f"{key}-{number}")

    def try_three(self) -> bool:
        """Take one call of each of three limits."""
        one, two, three = self._three
        return one.try_acquire() and two.try_acquire() and three.try_acquire()


def available() -> tuple[list[type[Peer]], list[str]]:
    """The limiters whose packages are installed, and a sentence for each package that is not."""
    found: list[type[Peer]] = []
    skipped: list[str] = []
    for module, package in MODULES.items():
        try:
            found += import_module(f"{__name__}.{module}").KINDS
        except ImportError as error:
            skipped.append(f"{package} is left out: {error}. The extra `bench` installs it.")
    return found, skipped
