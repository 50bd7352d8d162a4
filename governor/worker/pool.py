"""Slots of the worker's pool. Admission is decided when one is free, never before.

A slot taken while the pool is busy would be used whenever the pool gets to it: forty calls
in a tenth of a second were measured at a limit of ten a second.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from billiard.einfo import ExceptionInfo
from celery.exceptions import WorkerShutdown, WorkerTerminate

from governor.errors import BodyDied
from governor.worker.body_results import failure_info
from governor.worker.event_loop import Loop

Occupant = Callable[[Any], None]


class PoolSlots(Protocol):
    """Slots of the worker's pool. All calls are made on the loop."""

    def acquire(self, occupant: Occupant, request: Any) -> None:
        """Call ``occupant(request)`` when it has a slot: now, or later in order."""
        ...

    def give_back(self) -> None:
        """Return a slot that was acquired and not used."""
        ...

    def run(self, request: Any) -> None:
        """Use an acquired slot to execute ``request``; the pool returns it afterwards.

        Raises:
            Exception: the pool does not take ``request``. The slot has been given back.
        """
        ...

    def free(self) -> int:
        """Count the slots that are neither taken nor waited for."""
        ...

    def clear(self) -> None:
        """Forget the waiting occupants: their messages went back to the broker."""
        ...


class PreforkSlots:
    """Celery's own semaphore, which its ungoverned tasks use as well."""

    def __init__(self, controller: Any, loop: Loop) -> None:
        self._controller = controller
        self._loop = loop

    def acquire(self, occupant: Occupant, request: Any) -> None:
        self._controller._quick_acquire(occupant, request)

    def give_back(self) -> None:
        # Not from here: release calls the next waiter, which may give its slot back too, and
        # the recursion of many waiters ends the worker.
        self._loop.soon(self._controller._quick_release)

    def run(self, request: Any) -> None:
        try:
            self._controller._process_task(request)
        except Exception:
            self._forget_job(request)
            self.give_back()
            raise

    def _forget_job(self, request: Any) -> None:
        """Drop the job that the pool noted before its message could not be encoded: a warm shutdown
        would wait for its end."""
        jobs = getattr(getattr(self._controller.pool, "_pool", None), "_cache", None) or {}
        for number, job in list(jobs.items()):
            if getattr(job, "correlation_id", None) == request.id and not job.accepted():
                del jobs[number]

    def free(self) -> int:
        return int(self._controller.semaphore.value)

    def clear(self) -> None:
        """Do nothing: Celery clears its semaphore when the connection is lost."""


class CountedSlots:
    """For pools whose executor queues whatever it is given (threads, gevent, solo).

    All requests of the worker, governed or not, pass through it in order: in a free slot a body
    starts at once.
    """

    def __init__(self, controller: Any, pool: Any, loop: Loop) -> None:
        self._controller = controller
        self._pool = pool
        self._loop = loop
        self._waiting: deque[tuple[Occupant, Any]] = deque()
        self._taken = 0
        # Given back, by any thread, and still counted among the taken.
        self._returned: deque[None] = deque()
        self._applied = 0
        self._pumping = False
        self._on_apply = pool.on_apply
        pool.on_apply = self._apply

    def acquire(self, occupant: Occupant, request: Any) -> None:
        self._waiting.append((occupant, request))
        self._pump()

    def give_back(self) -> None:
        # In this order, and _pump looks the other way round: a slot that no request waits for
        # wakes nothing, and none is overlooked.
        self._returned.append(None)
        if self._waiting:
            self._loop.soon(self._pump)

    def run(self, request: Any) -> None:
        before = self._applied
        try:
            self._controller._process_task(request)
        finally:
            if self._applied == before:
                # Revoked at the last moment, or refused before the pool saw it: nothing was
                # executed that will return the slot.
                self.give_back()

    def free(self) -> int:
        return max((self._pool.num_processes or 1) - self._taken - len(self._waiting), 0)

    def clear(self) -> None:
        self._waiting.clear()

    def _apply(
        self, target: Callable[..., Any], *args: Any, callback: Callable[[Any], None], **kwargs: Any
    ) -> Any:
        self._applied += 1
        taken = True
        timed = bool(kwargs.get("timeout"))

        def give_back() -> None:
            nonlocal taken
            if taken:
                taken = False
                self.give_back()

        def counted(*inner: Any, **named: Any) -> Any:
            try:
                return target(*inner, **named)
            except BaseException as exc:
                if _is_heard_by_the_pool(exc, timed=timed):
                    give_back()
                    raise
                # The pool would lose it: a handler of the task's, or of a signal, failed, or
                # the greenlet was killed.
                return 1, _failure(exc), 0.0

        def ended(result: Any) -> None:
            # The next request is decided about after it is known how this one ended.
            try:
                callback(result)
            finally:
                give_back()

        try:
            return self._on_apply(counted, *args, callback=ended, **kwargs)
        except BaseException:
            give_back()
            raise

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        for _ in range(len(self._returned)):
            self._returned.popleft()
            self._taken -= 1
        try:
            while self._waiting and self._taken < (self._pool.num_processes or 1):
                self._taken += 1
                occupant, request = self._waiting.popleft()
                occupant(request)
        finally:
            self._pumping = False
        if self._waiting and self._returned:
            # Of what was given back meanwhile, in the next round: Celery gets its turn.
            self._loop.soon(self._pump)


def _is_heard_by_the_pool(exc: BaseException, *, timed: bool) -> bool:
    """Tell whether the pool itself waits for this exception, of a body with a time limit or not."""
    gevent = sys.modules.get("gevent")
    if timed and gevent is not None and isinstance(exc, gevent.Timeout):
        return True
    return isinstance(exc, WorkerShutdown | WorkerTerminate)


def _failure(exc: BaseException) -> ExceptionInfo:
    """Make what Celery calls an end of a task. Celery raises some exceptions again where it reads
    them; those are renamed."""
    if isinstance(exc, Exception) and not isinstance(exc, MemoryError):
        return ExceptionInfo()
    try:
        text = str(exc)
    except BaseException:
        text = ""
    return failure_info(BodyDied(type(exc).__name__, text))
