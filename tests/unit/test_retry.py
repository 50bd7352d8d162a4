"""The retry policy: which failures run again, when, and when it ends."""

from __future__ import annotations

import random
import statistics
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from governor.clock import SECOND
from governor.errors import DeclarationError, Throttled
from governor.policy.retry import GiveUp, Retry, RetryIn
from governor.ports import Reason

TWO_SECONDS = tenacity.wait_fixed(2)


def raising(state: tenacity.RetryCallState) -> float:
    raise KeyError("broken")


def from_the_exception(state: tenacity.RetryCallState) -> float:
    assert state.outcome is not None
    exc = state.outcome.exception()
    assert exc is not None
    return float(exc.args[0])


@pytest.mark.parametrize(
    ("policy", "exc", "attempt", "elapsed", "wait"),
    [
        # the first failure waits what the strategy says
        (Retry(on=OSError, wait=TWO_SECONDS), OSError(), 1, 0, 2.0),
        # the last but one attempt still leads to the last
        (Retry(on=OSError, wait=TWO_SECONDS, attempts=5), OSError(), 4, 0, 2.0),
        # a subclass is covered by its base
        (Retry(on=OSError, wait=TWO_SECONDS), ConnectionResetError(), 1, 0, 2.0),
        # any of several types
        (Retry(on=(KeyError, OSError), wait=TWO_SECONDS), KeyError(), 1, 0, 2.0),
        # the strategy sees the number of the attempt: 1, 2, 4 s
        (Retry(on=OSError, wait=tenacity.wait_exponential()), OSError(), 3, 0, 4.0),
        # strategies combine
        (Retry(on=OSError, wait=TWO_SECONDS + tenacity.wait_fixed(3)), OSError(), 1, 0, 5.0),
        # the strategy sees the exception
        (Retry(on=OSError, wait=from_the_exception), OSError(9), 1, 0, 9.0),
        # a wait of no whole microseconds is rounded up
        (Retry(on=OSError, wait=tenacity.wait_fixed(1e-7)), OSError(), 1, 0, 1e-6),
        # a negative wait is none
        (Retry(on=OSError, wait=lambda _: -3.0), OSError(), 1, 0, 0.0),
        # beginning exactly at the bound is within it
        (Retry(on=OSError, wait=TWO_SECONDS, within=10), OSError(), 1, 8 * SECOND, 2.0),
        # the bound as a timedelta
        (
            Retry(on=OSError, wait=TWO_SECONDS, within=timedelta(seconds=10)),
            OSError(),
            1,
            8 * SECOND,
            2.0,
        ),
        # no bound in time: a year later is fine
        (
            Retry(on=OSError, wait=TWO_SECONDS, within=None),
            OSError(),
            1,
            365 * 86_400 * SECOND,
            2.0,
        ),
        # a clock that stepped back counts as no time
        (Retry(on=OSError, wait=TWO_SECONDS, within=2), OSError(), 1, -5 * SECOND, 2.0),
        # a stop strategy that is not reached yet
        (
            Retry(on=OSError, wait=TWO_SECONDS, stop=tenacity.stop_after_delay(10)),
            OSError(),
            1,
            9 * SECOND,
            2.0,
        ),
    ],
)
def test_what_is_retried_waits_what_the_strategy_says(
    policy: Retry, exc: Exception, attempt: int, elapsed: int, wait: float
) -> None:
    """A listed failure within every bound runs again after the strategy's wait."""
    decision = policy.decide(exc, attempt=attempt, elapsed=elapsed)
    assert decision == RetryIn(round(wait * SECOND))


@pytest.mark.parametrize(
    ("policy", "exc", "attempt", "elapsed", "reason", "detail"),
    [
        # an exception nobody listed
        (Retry(on=OSError), KeyError(), 1, 0, Reason.NOT_RETRYABLE, "KeyError is not in"),
        # not even at the last attempt is an unlisted one called exhausted
        (Retry(on=OSError), KeyError(), 5, 0, Reason.NOT_RETRYABLE, "KeyError is not in"),
        # what ends the worker is never retried, though Exception is listed
        (Retry(on=Exception), SystemExit(), 1, 0, Reason.NOT_RETRYABLE, "SystemExit is not in"),
        # the last attempt
        (Retry(on=OSError), OSError(), 5, 0, Reason.RETRIES_EXHAUSTED, "attempt 5 of 5"),
        # beyond the last, after the policy was shortened and deployed
        (Retry(on=OSError), OSError(), 9, 0, Reason.RETRIES_EXHAUSTED, "attempt 9 of 5"),
        # one attempt is no retry
        (Retry(on=OSError, attempts=1), OSError(), 1, 0, Reason.RETRIES_EXHAUSTED, "1 of 1"),
        # the wait would end one microsecond beyond the bound
        (
            Retry(on=OSError, wait=TWO_SECONDS, within=10),
            OSError(),
            1,
            8 * SECOND + 1,
            Reason.RETRIES_EXHAUSTED,
            "the bound is 10 s",
        ),
        # the bound has passed already
        (
            Retry(on=OSError, wait=tenacity.wait_none(), within=10),
            OSError(),
            1,
            11 * SECOND,
            Reason.RETRIES_EXHAUSTED,
            "the bound is 10 s",
        ),
        # by default it all ends after an hour
        (
            Retry(on=OSError, wait=TWO_SECONDS),
            OSError(),
            1,
            3599 * SECOND,
            Reason.RETRIES_EXHAUSTED,
            "the bound is 3600 s",
        ),
        # the stop strategy measures our time, not its own clock
        (
            Retry(on=OSError, wait=TWO_SECONDS, stop=tenacity.stop_after_delay(10)),
            OSError(),
            1,
            10 * SECOND,
            Reason.RETRIES_EXHAUSTED,
            "the stop strategy ended it",
        ),
        # the stop strategy knows the coming wait
        (
            Retry(on=OSError, wait=TWO_SECONDS, stop=tenacity.stop_before_delay(10)),
            OSError(),
            1,
            8 * SECOND,
            Reason.RETRIES_EXHAUSTED,
            "the stop strategy ended it",
        ),
        # the stop strategy counts attempts, below our own bound
        (
            Retry(on=OSError, stop=tenacity.stop_after_attempt(2)),
            OSError(),
            2,
            0,
            Reason.RETRIES_EXHAUSTED,
            "the stop strategy ended it",
        ),
        # a wait strategy with a defect
        (Retry(on=OSError, wait=raising), OSError(), 1, 0, Reason.RETRIES_EXHAUSTED, "KeyError"),
        # a stop strategy with a defect
        (Retry(on=OSError, stop=raising), OSError(), 1, 0, Reason.RETRIES_EXHAUSTED, "KeyError"),  # type: ignore[arg-type]
        # a wait that never ends
        (
            Retry(on=OSError, wait=lambda _: float("inf"), within=None),
            OSError(),
            1,
            0,
            Reason.RETRIES_EXHAUSTED,
            "never ends",
        ),
        # an exponential wait without a maximum, 90 doublings on
        (
            Retry(on=OSError, attempts=99, wait=tenacity.wait_exponential(), within=None),
            OSError(),
            90,
            0,
            Reason.RETRIES_EXHAUSTED,
            "never ends",
        ),
        # a wait that is no number
        (
            Retry(on=OSError, wait=lambda _: float("nan")),
            OSError(),
            1,
            0,
            Reason.RETRIES_EXHAUSTED,
            "never ends",
        ),
    ],
)
def test_when_it_gives_up(
    policy: Retry, exc: BaseException, attempt: int, elapsed: int, reason: Reason, detail: str
) -> None:
    """Every end has one of the dead letters' reasons and a sentence for a person."""
    decision = policy.decide(exc, attempt=attempt, elapsed=elapsed)
    assert isinstance(decision, GiveUp)
    assert Reason(decision.reason) is reason
    assert detail in decision.detail


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("attempts", {"attempts": 0}),  # would not even run once
        ("attempts", {"attempts": -1}),  # negative
        ("attempts", {"attempts": 2.5}),  # half an attempt
        ("attempts", {"attempts": True}),  # a flag
        ("attempts", {"attempts": None}),  # Celery's "for ever" is not offered
        ("on", {"on": ()}),  # nothing
        ("on", {"on": "OSError"}),  # a name instead of a type
        ("on", {"on": OSError()}),  # an instance instead of a type
        ("on", {"on": []}),  # a list of nothing
        ("on", {"on": [OSError, 500]}),  # a list with a status among types
        ("on", {"on": int}),  # a type that is no exception
        ("on", {"on": BaseException}),  # everything, SystemExit included
        ("on", {"on": (OSError, SystemExit)}),  # the end of a worker among others
        ("on", {"on": KeyboardInterrupt}),  # a person's wish
        ("on", {"on": Throttled}),  # waited for without an attempt
        ("wait", {"wait": 5}),  # seconds instead of a strategy
        ("wait", {"wait": None}),  # nothing
        ("wait", {"wait": tenacity.wait_fixed}),  # the class instead of an instance
        ("stop", {"stop": 5}),  # a number instead of a strategy
        ("stop", {"stop": tenacity.stop_after_delay}),  # the class instead of an instance
        ("within", {"within": 0}),  # no time at all
        ("within", {"within": -1.0}),  # negative
        ("within", {"within": float("inf")}),  # for ever is None
        ("within", {"within": float("nan")}),  # not a number
        ("within", {"within": timedelta(0)}),  # no time at all, as a timedelta
        ("within", {"within": "1h"}),  # a text
        ("within", {"within": True}),  # a flag
    ],
)
def test_a_policy_that_cannot_work_is_refused(field: str, arguments: dict[str, Any]) -> None:
    """A wrong declaration names its field and the remedy."""
    with pytest.raises(DeclarationError) as refused:
        Retry(**{"on": OSError, **arguments})
    assert refused.value.field == field
    assert refused.value.remedy


def test_the_default_wait_spreads_over_the_whole_interval() -> None:
    """Full jitter: waits lie anywhere between 0 and the exponential bound, one minute at most."""
    random.seed(20_240_229)
    policy = Retry(on=OSError, attempts=100)
    for attempt, bound in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)]:
        waits = [
            decision.wait / SECOND
            for decision in (
                policy.decide(OSError(), attempt=attempt, elapsed=0) for _ in range(1_000)
            )
            if isinstance(decision, RetryIn)
        ]
        assert len(waits) == 1_000
        assert max(waits) <= bound + 1e-6
        assert min(waits) < 0.05 * bound
        assert max(waits) > 0.95 * bound
        assert 0.45 * bound < statistics.fmean(waits) < 0.55 * bound


@given(st.integers(1, 10_000), st.integers(-(10**12), 10**16), st.booleans())
def test_a_decision_never_raises_and_never_passes_the_bound(
    attempt: int, elapsed: int, bounded: bool
) -> None:
    """Whatever the attempt and the time, the answer is a value inside every bound."""
    policy = Retry(on=OSError, attempts=1_000, within=3600 if bounded else None)
    decision = policy.decide(OSError(), attempt=attempt, elapsed=elapsed)
    if isinstance(decision, RetryIn):
        assert attempt < 1_000
        assert 0 <= decision.wait <= 60 * SECOND
        assert not bounded or max(elapsed, 0) + decision.wait <= 3600 * SECOND
    else:
        assert attempt >= 1_000 or bounded
