"""The worker's loop on a clock that the test moves, and what of Celery hangs on it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

from celery import Celery

from governor.testing.clock import FakeClock
from governor.worker.request import GovernedRequest


class SimulatedLoop:
    """A :class:`governor.worker.event_loop.Loop`: runs what is brought, then what is due, one at a
    time, and moves the clock to it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._brought: deque[Callable[[], None]] = deque()
        self._timed: list[tuple[int, int, Callable[[], None]]] = []
        self._number = count()

    def soon(self, work: Callable[[], None]) -> None:
        self._brought.append(work)

    def at(self, moment: int, work: Callable[[], None]) -> None:
        heapq.heappush(self._timed, (moment, next(self._number), work))

    def here(self) -> bool:
        return True

    def drain(self) -> None:
        """Nothing: the test runs it."""

    def forget(self) -> None:
        """Nothing is due any more."""
        self._timed.clear()

    def turn(self) -> None:
        """Run one thing, whenever it is due."""
        if self._brought:
            self._brought.popleft()()
            return
        moment, _, work = heapq.heappop(self._timed)
        self._clock.now = max(self._clock.now, moment)
        work()

    def run_for(self, micros: int) -> None:
        """Let so much time pass, and run what is due meanwhile."""
        end = self._clock.now + micros
        while self._brought or (self._timed and self._timed[0][0] <= end):
            self.turn()
        self._clock.now = max(self._clock.now, end)


class SimulatedSlots:
    """So many slots of a pool, and requests that wait for one."""

    def __init__(self, loop: SimulatedLoop, slots: int) -> None:
        self.loop = loop
        self.slots = slots
        self._waiting: deque[tuple[Callable[[Any], None], Any]] = deque()

    def acquire(self, occupant: Callable[[Any], None], request: Any) -> None:
        if self.slots:
            self.slots -= 1
            occupant(request)
        else:
            self._waiting.append((occupant, request))

    def give_back(self) -> None:
        self.loop.soon(self.release)

    def free(self) -> int:
        return self.slots

    def clear(self) -> None:
        self._waiting.clear()

    def release(self) -> None:
        """Give a slot to a request that waits for one, or take it back."""
        if self._waiting:
            occupant, request = self._waiting.popleft()
            occupant(request)
        else:
            self.slots += 1


def simulated_consumer(app: Celery, received: Callable[[Any], None]) -> Any:
    """Make what the dispatcher uses of Celery's consumer; ``received`` gets each message."""
    return SimpleNamespace(
        app=app,
        qos=SimpleNamespace(increment_eventually=int, decrement_eventually=int),
        connection=app.connection_for_read(),
        create_task_handler=lambda: received,
    )


def simulated_request(app: Celery, message: Any) -> GovernedRequest:
    """Make a request of a message, as Celery does."""
    return GovernedRequest(
        message, app=app, task=app.tasks[message.headers["task"]], hostname="simulated",
        on_ack=message.ack_log_error, on_reject=message.reject_log_error,
    )  # fmt: skip
