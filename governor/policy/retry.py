"""The retry decision: whether a failed task runs again, and when.

tenacity's strategies are used as arithmetic: they compute the wait and the end, and Celery
redelivers. Its loop, which would sleep inside the task, is never used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import tenacity

from governor.clock import SECOND, micros, seconds
from governor.errors import DeclarationError, Throttled
from governor.foreign import is_from_outside, text_of
from governor.policy.options import checked

WaitStrategy = Callable[[tenacity.RetryCallState], float]
StopStrategy = Callable[[tenacity.RetryCallState], bool]

FULL_JITTER = tenacity.wait_random_exponential(multiplier=1, max=60)
"""Anywhere between 0 and 1, 2, 4 … 60 s, so that tasks that failed together spread out."""

_WAIT_REMEDY = "Give a tenacity wait strategy, for example tenacity.wait_fixed(5)"
_STOP_REMEDY = "Give a tenacity stop strategy, for example tenacity.stop_after_delay(600), or None"
_WITHIN_REMEDY = "Give seconds or a timedelta above 0, or None for no bound in time"
_ON_REMEDY = "Name the exceptions that are worth another attempt, for example httpx.TransportError"

LONGEST_WAIT = 365 * 86_400.0
"""Seconds. No broker carries a countdown of a year; a strategy without a maximum gets there."""

# tenacity wants the object whose loop is running; there is no loop.
_NO_LOOP = tenacity.Retrying()


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Run again after ``wait`` microseconds."""

    wait: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not run again.

    Attributes:
        reason: the value of the dead letter's :class:`~governor.ports.Reason`.
        detail: what said so, in words for a person.
    """

    reason: Literal["retries_exhausted", "not_retryable"]
    detail: str


@checked
@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed call is made again. For idempotent task types only.

    Attributes:
        on: the exception type, or several of them, worth another attempt.
        attempts: how often the task may run in all, the first time included.
        wait: tenacity wait strategy; full jitter by default.
        stop: a further tenacity stop strategy, asked with the coming wait known.
        within: seconds (or a timedelta) from the first attempt in which the last one must
            begin; ``None`` for no bound.

    Raises:
        DeclarationError: a field cannot work.
    """

    on: type[Exception] | Collection[type[Exception]]
    attempts: int = 5
    wait: WaitStrategy = FULL_JITTER
    stop: StopStrategy | None = None
    within: float | timedelta | None = 3600.0

    def __post_init__(self) -> None:
        if isinstance(self.on, list | set | frozenset):
            object.__setattr__(self, "on", tuple(self.on))
        _check_exceptions(self.on)
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise DeclarationError(
                "attempts", f"{self.attempts!r} is not a number of attempts", "Give 1 or more"
            )
        if self.attempts < 1:
            raise DeclarationError(
                "attempts",
                f"{self.attempts} would not even run the task once",
                "Give 1 or more; the first attempt counts",
            )
        # A class is callable too, and `wait=tenacity.wait_fixed` is easily written.
        if isinstance(self.wait, type) or not callable(self.wait):
            raise DeclarationError("wait", f"{self.wait!r} is not a wait strategy", _WAIT_REMEDY)
        if self.stop is not None and (isinstance(self.stop, type) or not callable(self.stop)):
            raise DeclarationError("stop", f"{self.stop!r} is not a stop strategy", _STOP_REMEDY)
        _check_within(self.within)

    @property
    def within_micros(self) -> int | None:
        """The bound in time in microseconds."""
        if isinstance(self.within, timedelta):
            return self.within // timedelta(microseconds=1)
        return None if self.within is None else micros(self.within)

    def decide(self, exc: BaseException, *, attempt: int, elapsed: int) -> RetryIn | GiveUp:
        """Decide what follows the failure ``exc`` of attempt number ``attempt`` (the first is 1).

        ``elapsed`` is microseconds since the first attempt began. Never raises: a strategy that
        fails is a reason to give up, named in the detail.
        """
        on: Any = self.on
        if not isinstance(exc, on):
            return GiveUp("not_retryable", f"{type(exc).__name__} is not in the retry policy")
        if attempt >= self.attempts:
            return _exhausted(f"attempt {attempt} of {self.attempts} failed")
        elapsed = max(elapsed, 0)
        state = _state(exc, attempt, elapsed)
        try:
            wait = float(self.wait(state))
            state.upcoming_sleep = wait
            stopped = self.stop is not None and self.stop(state)
        except BaseException as broken:
            if is_from_outside(broken):
                raise
            text = text_of(broken) or "it has no text"
            return _exhausted(f"the retry policy failed: {type(broken).__name__}: {text}")
        if stopped:
            return _exhausted(f"the stop strategy ended it after attempt {attempt}")
        if math.isnan(wait) or wait > LONGEST_WAIT:
            return _exhausted(f"the wait strategy gave {wait!r}, which never ends")
        coming = micros(max(wait, 0.0))
        within = self.within_micros
        if within is not None and elapsed + coming > within:
            return _exhausted(
                f"attempt {attempt + 1} would begin {seconds(elapsed + coming):.6g} s after the "
                f"first; the bound is {seconds(within):.6g} s"
            )
        return RetryIn(coming)


def _exhausted(detail: str) -> GiveUp:
    return GiveUp("retries_exhausted", detail)


def _state(exc: BaseException, attempt: int, elapsed: int) -> tenacity.RetryCallState:
    """The call state that tenacity's strategies look at, with our time in place of the clock's."""
    state = tenacity.RetryCallState(_NO_LOOP, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.set_exception((type(exc), exc, exc.__traceback__))
    state.start_time = 0.0
    state.outcome_timestamp = elapsed / SECOND
    return state


def _check_exceptions(on: Any) -> None:
    types = on if isinstance(on, tuple) else (on,)
    if not types:
        raise DeclarationError("on", "it names no exception", _ON_REMEDY)
    for each in types:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise DeclarationError("on", f"{each!r} is not an exception type", _ON_REMEDY)
        if not issubclass(each, Exception):
            raise DeclarationError(
                "on", f"{each.__name__} ends a worker and cannot be retried", _ON_REMEDY
            )
        if issubclass(each, Throttled):
            raise DeclarationError(
                "on", f"{each.__name__} is waited for already and costs no attempt", "Leave it out"
            )


def _check_within(within: Any) -> None:
    if within is None:
        return
    length = within.total_seconds() if isinstance(within, timedelta) else within
    if (
        isinstance(length, bool)
        or not isinstance(length, (int, float))
        or not math.isfinite(length)
        or length <= 0
    ):
        raise DeclarationError("within", f"{within!r} is not a span of time", _WITHIN_REMEDY)
