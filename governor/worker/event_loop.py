"""The worker's event loop as the dispatcher sees it: run soon, run at a time, from any thread.

Celery has two: kombu's hub (prefork, threads and solo over Redis and RabbitMQ) and a plain
blocking loop (gevent, and transports without asynchronous I/O), which has no place for our
work, so a thread of ours does it; under gevent that thread is a greenlet.

Everything the dispatcher does happens on its loop, one thing at a time, and nothing that fails
there gets out: an exception in Celery's loop would end the worker.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from governor.clock import Clock, seconds
from governor.log_lines import LOG

_LAST_WORK = 1.0
"""Seconds for which a closed loop's thread is waited for."""

Work = Callable[[], object]


class Loop(Protocol):
    """Loop on which the dispatcher's work happens."""

    def soon(self, work: Work) -> None:
        """Run ``work`` on the loop, not from inside the caller. From any thread."""
        ...

    def at(self, moment: int, work: Work) -> None:
        """Run ``work`` on the loop at monotonic microseconds ``moment``. On the loop only."""
        ...

    def here(self) -> bool:
        """Tell whether the caller is on the loop."""
        ...

    def drain(self) -> None:
        """Run what is due now; used while the worker shuts down and its loop has ended."""
        ...

    def close(self) -> None:
        """Give back what the loop has open; what is brought from now on is not done."""
        ...


def guarded(work: Callable[..., object], *args: object) -> None:
    """Run ``work``; whatever it raises is logged and goes no further."""
    try:
        work(*args)
    except Exception:
        LOG.exception("The governor failed in the worker's event loop")


class HubLoop:
    """kombu's hub. A byte in a pipe wakes it for work that other threads bring."""

    def __init__(self, hub: Any, timer: Any, clock: Clock) -> None:
        self._hub = hub
        self._timer = timer
        self._clock = clock
        self._owner = threading.get_ident()
        self._brought: deque[Work] = deque()
        self._woken = False
        self._waking = threading.Lock()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def register(self, hub: Any) -> None:
        """Listen for other threads. The hub forgets its readers at each reconnection."""
        self._hub = hub
        self._owner = threading.get_ident()
        hub.add_reader(self._reader, self.drain)

    def soon(self, work: Work) -> None:
        self._brought.append(work)
        if not self._woken:
            # One wake-up is enough for all that is brought until then. Each is a system call, in
            # which a thread of the pool loses the interpreter.
            self._woken = True
            with self._waking, suppress(BlockingIOError):
                if self._writer >= 0:
                    os.write(self._writer, b"\0")

    def at(self, moment: int, work: Work) -> None:
        delay = max(0, moment - self._clock.monotonic())
        self._timer.call_after(seconds(delay), guarded, (work,))

    def here(self) -> bool:
        return threading.get_ident() == self._owner

    def drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 65_536)
        # After the pipe is empty, or a wake-up would be swallowed; before what was brought is
        # counted, or work would lie there with nobody awake.
        self._woken = False
        # Work that brings more work waits for the next round, so that Celery gets its turn.
        for _ in range(len(self._brought)):
            guarded(self._brought.popleft())

    def close(self) -> None:
        with suppress(Exception):  # a hub that is closed has forgotten it
            self._hub.remove_reader(self._reader)
        with self._waking:
            # Its number may be another file's a moment later.
            os.close(self._writer)
            self._writer = -1
        os.close(self._reader)


class ThreadLoop:
    """A thread (under gevent: a greenlet) of the governor's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._brought: deque[Work] = deque()
        self._timed: list[tuple[int, int, Work]] = []
        self._number = count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="governor-loop", daemon=True)
        self._thread.start()

    def soon(self, work: Work) -> None:
        with self._changed:
            self._brought.append(work)
            self._changed.notify()

    def at(self, moment: int, work: Work) -> None:
        with self._changed:
            heapq.heappush(self._timed, (moment, next(self._number), work))
            self._changed.notify()

    def here(self) -> bool:
        return threading.current_thread() is self._thread

    def drain(self) -> None:
        """Nothing to do: this loop runs until it is closed."""

    def close(self) -> None:
        self.soon(self._over.set)
        self._thread.join(_LAST_WORK)

    def _run(self) -> None:
        while not self._over.is_set():
            guarded(self._next())

    def _next(self) -> Work:
        with self._changed:
            while True:
                if self._brought:
                    return self._brought.popleft()
                now = self._clock.monotonic()
                if self._timed and self._timed[0][0] <= now:
                    return heapq.heappop(self._timed)[2]
                delay = seconds(self._timed[0][0] - now) if self._timed else None
                self._changed.wait(delay)
