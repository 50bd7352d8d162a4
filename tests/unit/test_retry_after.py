"""Retry-After: what a response says about when the upstream may be called again."""

from __future__ import annotations

import email
import urllib.error

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from governor.clock import SECOND
from governor.errors import Throttled
from governor.headers.values import LONGEST_RETRY_AFTER, parse_retry_after
from governor.policy.failure import http_status
from governor.policy.retry_after import (
    from_response,
    pause_of,
    throttled_from_exception,
)
from tests.unit.responses import LIBRARIES, Bare, httpx_response, requests_response

# Sun, 06 Nov 1994 08:49:37 GMT, the date of the HTTP specification's own examples.
NOW = 784_111_777 * SECOND


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", 120.0),  # seconds
        (" 120 ", 120.0),  # seconds with space around them
        ("1.5", 1.5),  # a fraction, outside the specification but sent
        ("0", 0.0),  # at once
        ("-5", 0.0),  # a moment already past
        (30, 30.0),  # a number instead of a text
        (0.25, 0.25),  # a fraction as a number
        (-1, 0.0),  # a negative number
        (float("inf"), LONGEST_RETRY_AFTER),  # for ever is a day
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),  # today's date form
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),  # the old form with a two-digit year
        ("Sun Nov  6 08:50:37 1994", 60.0),  # C's asctime form, always GMT
        ("Sun, 06 Nov 1994 08:49:60 GMT", 22.0),  # a leap second
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60.0),  # a zone, outside the specification
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),  # a date in the past
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),  # a date past all use
        ("31536000", LONGEST_RETRY_AFTER),  # a year is cut to a day
        ("9" * 5000, LONGEST_RETRY_AFTER),  # more digits than a float has
        (10**400, LONGEST_RETRY_AFTER),  # a number no float can hold
        (None, None),  # no header
        ("", None),  # an empty header
        ("soon", None),  # a word
        ("1e3", None),  # an exponent
        ("nan", None),  # not a number, as a text
        (float("nan"), None),  # not a number
        (True, None),  # a flag is no wait
        ("12O", None),  # a letter for a digit
        ("120, 60", None),  # two headers folded into one
        ("Sun, 32 Nov 1994 08:49:37 GMT", None),  # no such day
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),  # no such hour
    ],
)
def test_a_value_is_read_as_seconds_or_date_or_not_at_all(value: object, wait: object) -> None:
    """Every form of Retry-After gives its wait, bounded; what cannot be read gives none."""
    assert parse_retry_after(value, NOW) == wait  # type: ignore[arg-type]


@given(st.one_of(st.text(), st.floats(), st.integers(), st.text("0123456789:,-+ GMTSunNov")))
def test_no_value_raises_or_escapes_its_bounds(value: str | float) -> None:
    """Whatever a server sends, the answer is none or a wait between 0 and a day."""
    wait = parse_retry_after(value, NOW)
    assert wait is None or 0 <= wait <= LONGEST_RETRY_AFTER


@pytest.mark.parametrize("make", LIBRARIES)
@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "7"}, 7.0),  # throttled, and says until when
        (429, {"RETRY-AFTER": "7"}, 7.0),  # header names have no case
        (429, {}, None),  # throttled, does not say until when
        (429, {"Retry-After": "later"}, None),  # throttled, says nothing we can read
        (503, {"Retry-After": "7"}, 7.0),  # unavailable until
        # A date against the server's own Date: our clock is an hour wrong and it does not matter.
        (
            429,
            {
                "Date": "Sun, 06 Nov 1994 09:49:37 GMT",
                "Retry-After": "Sun, 06 Nov 1994 09:49:47 GMT",
            },
            10.0,
        ),
        (429, {"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10.0),  # no Date: our clock
        (403, {"Retry-After": "7"}, 7.0),  # GitHub's secondary limits
        # GitHub's hour is used up, until an instant
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "90"}, 90.0),
        (403, {"X-RateLimit-Remaining": "0"}, None),  # used up, and does not say until when
    ],
)
def test_a_throttled_response_is_recognised(
    make: type[Bare], status: int, headers: dict[str, str], wait: float | None
) -> None:
    """A 429, a 503 with Retry-After, a 403 for a quota, of any client library, is Throttled."""
    throttled = from_response(make(status, headers), NOW)
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after == wait
    assert throttled.upstream is None


@pytest.mark.parametrize("make", LIBRARIES)
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Retry-After": "7"}),  # success, whatever it advises
        (202, {"Retry-After": "7"}),  # accepted: poll later, not throttled
        (301, {"Retry-After": "7"}),  # moved
        (403, {}),  # forbidden
        (403, {"X-RateLimit-Remaining": "1"}),  # forbidden, and the quota is not to blame
        (403, {"Retry-After": "soon"}),  # an unreadable promise is no promise
        (500, {"Retry-After": "7"}),  # the call may have happened
        (503, {}),  # unavailable, and the call may have happened
        (503, {"Retry-After": "soon"}),  # an unreadable promise is no promise
    ],
)
def test_other_responses_are_not_throttled(
    make: type[Bare], status: int, headers: dict[str, str]
) -> None:
    """Only what says "not now" counts as the call not having happened."""
    assert from_response(make(status, headers), NOW) is None


@pytest.mark.parametrize("make", [httpx_response, requests_response])
def test_an_http_error_carries_its_response(make: type[Bare]) -> None:
    """raise_for_status of httpx and requests leads to the response (a false one in requests)."""
    with pytest.raises((httpx.HTTPStatusError, requests.HTTPError)) as raised:
        make(429, {"Retry-After": "3"}).raise_for_status()  # type: ignore[attr-defined]
    throttled = throttled_from_exception(raised.value, NOW)
    assert throttled is not None
    assert throttled.retry_after == 3.0
    assert http_status(raised.value) == 429


class WithResponse(Exception):
    """An exception of some library with a ``response`` of its own kind."""

    def __init__(self, response: object) -> None:
        self.response = response


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("429"),  # a number in a message is no status
        httpx.ConnectError("refused"),  # no response at all
        requests.ConnectionError("refused"),  # response is None
        WithResponse({"status_code": 429}),  # a dictionary is no response
        WithResponse(Bare("429", {})),  # type: ignore[arg-type]  # a status that is a text
        WithResponse(Bare(True, {})),  # a flag for a status
        WithResponse({"ResponseMetadata": {}}),  # botocore's, without a status
        WithResponse({"ResponseMetadata": {"HTTPStatusCode": "429"}}),  # a text for a status
        OSError(429, "a number of the system's"),
    ],
)
def test_an_exception_without_a_response_says_nothing(exc: Exception) -> None:
    """No response, no throttling and no status."""
    assert throttled_from_exception(exc, NOW) is None
    assert http_status(exc) is None


@pytest.mark.parametrize(
    ("throttles", "pause"),
    [(0, SECOND), (1, 2 * SECOND), (5, 32 * SECOND), (6, 60 * SECOND), (10**9, 60 * SECOND)],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},  # it does not say until when
        {"Retry-After": "0"},  # it says "at once"
        {"Retry-After": "-5"},  # it says "before now"
        {"Retry-After": "Sun, 06 Nov 1994 08:48:37 GMT"},  # a moment past
        {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"},  # the moment it is sent
    ],
)
def test_a_refusal_that_says_at_once_backs_off(
    headers: dict[str, str], throttles: int, pause: int
) -> None:
    """A 429 that names no moment to come pauses the fleet longer each time it is repeated."""
    throttled = from_response(Bare(429, headers), NOW)
    assert throttled is not None
    assert pause_of(throttled, throttles) == pause


def test_a_moment_to_come_is_waited_for() -> None:
    """However often it was refused, the upstream's own word counts, even a tenth of a second."""
    for wait in (0.1, 7.0, LONGEST_RETRY_AFTER):
        assert pause_of(Throttled(retry_after=wait), 9) == round(wait * SECOND)


class Aiohttp(Exception):
    """As aiohttp and urllib carry it: the exception itself has status and headers."""

    def __init__(self, name: str) -> None:
        setattr(self, name, 429)
        self.headers = {"Retry-After": "3"}


@pytest.mark.parametrize(
    "exc",
    [
        Aiohttp("status"),
        Aiohttp("status_code"),
        urllib.error.HTTPError(
            "http://api/", 429, "", email.message_from_string("Retry-After: 3"), None
        ),
        WithResponse(
            {"ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "3"}}}
        ),
    ],
)  # fmt: skip
def test_an_http_error_of_any_client_carries_its_response(exc: Exception) -> None:
    """aiohttp, urllib and botocore say a refusal each in a place of its own."""
    throttled = throttled_from_exception(exc, NOW)
    assert throttled is not None
    assert throttled.retry_after == 3.0
    assert http_status(exc) == 429


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
@pytest.mark.parametrize("where", ["response", "status_code", "headers"])
def test_a_property_that_raises_says_nothing(where: str, raised: type[BaseException]) -> None:
    """The code of somebody's exception or response may raise anything, and hides no failure."""

    def broken(_: object) -> None:
        raise raised

    class Broken(Bare, Exception):
        def __init__(self) -> None:
            self.response = self

    setattr(Broken, where, property(broken, lambda *_: None))
    exc = Broken()
    if where != "headers":
        Broken.headers = {"Retry-After": "7"}  # type: ignore[assignment]
        assert http_status(exc) is None
    else:
        Broken.status_code = 429
        assert http_status(exc) == 429
    throttled = throttled_from_exception(exc, NOW)
    assert (throttled is None) is (where != "headers")


def test_headers_that_are_no_mapping_are_no_headers() -> None:
    """A 429 is throttled even when nothing can be read from its headers."""
    response = Bare(429, None)  # type: ignore[arg-type]
    throttled = from_response(response, NOW)
    assert throttled is not None
    assert throttled.retry_after is None
