"""Outcomes that exceptions mean for the upstream, for its breaker and adaptive rate."""

from __future__ import annotations

import urllib.error

import httpx
import pytest
import requests

from governor import NotAdmitted, Throttled
from governor.policy.outcome import Outcome, outcome_of, outcome_of_status


def http_error(status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "http://api/"))
    return httpx.HTTPStatusError("", request=response.request, response=response)


def wrapped(cause: BaseException) -> Exception:
    exc = RuntimeError("wrapped")
    exc.__cause__ = cause
    return exc


class APIConnectionError(Exception):
    """As openai's."""


@pytest.mark.parametrize(
    ("exc", "outcome"),
    [
        (http_error(500), Outcome.FAILED),
        (http_error(503), Outcome.FAILED),
        (http_error(404), Outcome.SUCCESS),  # it answered that the call was wrong
        (http_error(429), Outcome.THROTTLED),
        (Throttled(), Outcome.THROTTLED),
        (NotAdmitted(), Outcome.IGNORED),  # it was not asked
        (ValueError("500"), Outcome.IGNORED),  # a failure on our side
        (ConnectionResetError(), Outcome.FAILED),
        (TimeoutError(), Outcome.FAILED),
        (httpx.ReadTimeout(""), Outcome.FAILED),
        (requests.ConnectionError(), Outcome.FAILED),
        (urllib.error.URLError("refused"), Outcome.FAILED),
        (APIConnectionError(), Outcome.FAILED),
        (wrapped(http_error(500)), Outcome.FAILED),  # in an error of the user's own
        (wrapped(http_error(404)), Outcome.SUCCESS),
        (wrapped(NotAdmitted()), Outcome.IGNORED),
        (wrapped(KeyError()), Outcome.IGNORED),
        (ExceptionGroup("", [http_error(404), http_error(500)]), Outcome.FAILED),  # the worst
        (ExceptionGroup("", [KeyError(), http_error(404)]), Outcome.SUCCESS),
    ],
)
def test_what_an_exception_says(exc: BaseException, outcome: Outcome) -> None:
    """The status counts where there is one, of the error or what it was raised from."""
    assert outcome_of(exc) is outcome


def test_a_retryable_failure_counts_unless_the_upstream_answered() -> None:
    """An exception of the retry policy is the upstream's failure, if nothing says otherwise."""
    assert outcome_of(ValueError(), retryable=True) is Outcome.FAILED
    assert outcome_of(http_error(404), retryable=True) is Outcome.SUCCESS
    assert outcome_of(NotAdmitted(), retryable=True) is Outcome.IGNORED


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.SUCCESS),
        (403, Outcome.SUCCESS),
        (429, Outcome.THROTTLED),
        (500, Outcome.FAILED),
    ],
)
def test_what_a_status_says(status: int, outcome: Outcome) -> None:
    """An answer is a success of the upstream, even one that says no."""
    assert outcome_of_status(status) is outcome
