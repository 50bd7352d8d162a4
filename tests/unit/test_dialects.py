"""Rate-limit headers: what a response of each API says about its quotas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from governor.clock import SECOND
from governor.headers.dialects import DIALECTS, QuotaReport, read
from governor.headers.values import LONGEST
from tests.unit.responses import LIBRARIES, Bare

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "rate_headers"
MINUTE, HOUR, DAY, MS = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND, 1_000

# Thu, 12 Mar 2026 10:00:00 GMT is when the fixtures were sent. Our clock is two hours behind.
SENT = 1_773_309_600
NOW = (SENT - 7_200) * SECOND


def bucket(*said: Any, **more: Any) -> QuotaReport:
    return QuotaReport(*said, kind="bucket", **more)


# an API, one of its responses, what it says
CASES: list[tuple[str, str, list[QuotaReport]]] = [
    # the current draft: what is left of one policy, and what the policy allows
    (
        "ietf",
        "one_policy",
        [QuotaReport("ietf", "default", 100, 50, 30 * SECOND, MINUTE)],
    ),
    # two policies, of which only one says what is left
    (
        "ietf",
        "two_policies",
        [
            QuotaReport("ietf", "permin", 50, 20, 23 * SECOND, MINUTE),
            QuotaReport("ietf", "perhr", 1000, window=HOUR),
        ],
    ),
    # a policy for each user that counts bytes
    (
        "ietf",
        "partition_and_unit",
        [
            QuotaReport(
                "ietf", "peruser", 65_535, 1_024, 4 * SECOND, 10 * SECOND, unit="content-bytes"
            )
        ],
    ),
    # a refusal without its policy: the Retry-After is no quota of its own
    ("ietf", "exhausted", [QuotaReport("ietf", "problemPolicy", None, 0, 5 * SECOND)]),
    # policies named by tokens, as drafts 8 and 9 had them in places
    (
        "ietf",
        "tokens_for_names",
        [QuotaReport("ietf", "basic", 100, 60, 58 * SECOND, MINUTE)],
    ),
    # draft 7: a dictionary; the window is that of the policy which allows as much
    ("ietf-07", "dictionary", [QuotaReport("ietf-07", None, 100, 50, 5 * SECOND, MINUTE)]),
    # the same without a policy
    ("ietf-07", "dictionary_alone", [QuotaReport("ietf-07", None, 100, 0, 50 * SECOND)]),
    # draft 6: three headers and a policy
    ("ietf-06", "triple", [QuotaReport("ietf-06", None, 100, 50, 50 * SECOND, MINUTE)]),
    # the first drafts: the policies follow the limit
    (
        "ietf-06",
        "policies_in_the_limit",
        [QuotaReport("ietf-06", None, 10, 9, SECOND, SECOND)],
    ),
    # GitLab: the reset is an instant, and the quota has a name
    (
        "ietf-06",
        "gitlab",
        [QuotaReport("ietf-06", "throttle_authenticated_web", 60, 0, 30 * SECOND)],
    ),
    # Docker Hub: windows beside the numbers, and no reset
    ("ietf-06", "docker_hub", [QuotaReport("ietf-06", None, 100, 76, None, 6 * HOUR)]),
    # GitHub's hour, measured against GitHub's own clock
    ("github", "core", [QuotaReport("github", "core", 5000, 4987, 1350 * SECOND)]),
    # GitHub refuses with 403
    ("github", "search_exhausted", [QuotaReport("github", "search", 30, 0, 42 * SECOND)]),
    # a secondary limit refused: the hour's quota is as it was
    ("github", "secondary", [QuotaReport("github", "core", 5000, 4120, 1350 * SECOND)]),
    # an older GitHub Enterprise, recognised by its request id
    ("github", "without_a_resource", [QuotaReport("github", None, 60, 56, HOUR)]),
    # 32 of 40 take 16 s to leak at 2/s
    ("shopify", "standard", [bucket("shopify", None, 40, 8, 16 * SECOND, interval=500 * MS)]),
    # a larger plan has a larger bucket and leaks faster
    ("shopify", "plus", [bucket("shopify", None, 400, 399, 50 * MS, interval=50 * MS)]),
    # a full bucket refuses
    ("shopify", "refused", [bucket("shopify", None, 40, 0, 20 * SECOND, interval=500 * MS)]),
    # a refusal leaves nothing, and not before Retry-After
    (
        "shopify",
        "refused_below_the_brim",
        [bucket("shopify", None, 40, 0, 30 * SECOND, interval=500 * MS)],
    ),
    # Stripe says nothing while all is well
    ("stripe", "fine", []),
    # which limiter refused
    ("stripe", "global_rate", [QuotaReport("stripe", "global-rate", None, 0)]),
    # and until when
    (
        "stripe",
        "endpoint_rate_until",
        [QuotaReport("stripe", "endpoint-rate", None, 0, SECOND)],
    ),
    # a lock on an object is no quota
    ("stripe", "lock_timeout", []),
    # HubSpot's three windows, none of which says when it ends
    (
        "hubspot",
        "private_app",
        [
            QuotaReport("hubspot", "interval", 100, 99, None, 10 * SECOND),
            QuotaReport("hubspot", "secondly", 10, 9, None, SECOND),
            QuotaReport("hubspot", "daily", 250_000, 249_991, None, DAY),
        ],
    ),
    # an OAuth app has no day
    ("hubspot", "oauth", [QuotaReport("hubspot", "interval", 110, 108, None, 10 * SECOND)]),
    # Slack says nothing while all is well
    ("slack", "fine", []),
    # and then only until when
    ("slack", "refused", [QuotaReport("retry-after", None, None, 0, 30 * SECOND)]),
    # the sample of OpenAI's documentation
    (
        "openai",
        "sample",
        [
            bucket("openai", "requests", 60, 59, SECOND),
            bucket("openai", "tokens", 150_000, 149_984, 6 * MINUTE, unit="tokens"),
        ],
    ),
    # milliseconds, a part of one, and a limit of the project
    (
        "openai",
        "fractions_and_project",
        [
            bucket("openai", "requests", 500, 499, 120 * MS),
            bucket("openai", "tokens", 30_000, 29_986, 28 * MS, unit="tokens"),
            bucket("openai", "project-tokens", 100_000, 99_986, 8_400, unit="tokens"),
        ],
    ),
    # tokens that are not known are -1; the requests are read all the same
    (
        "openai",
        "unknown_tokens",
        [bucket("openai", "requests", 500, 499, HOUR + 23 * MINUTE + 31_500 * MS)],
    ),
    # a small reset is seconds from now
    (
        "x-ratelimit",
        "seconds_from_now",
        [QuotaReport("x-ratelimit", None, 50, 12, 24 * SECOND)],
    ),
    # a large one is epoch seconds
    ("x-ratelimit", "epoch_seconds", [QuotaReport("x-ratelimit", None, 180, 179, MINUTE)]),
    # a larger one is epoch milliseconds
    (
        "x-ratelimit",
        "epoch_milliseconds",
        [QuotaReport("x-ratelimit", None, 60, 0, 10_005 * MS)],
    ),
    # a part of a call cannot be made; a part of a second can be waited
    (
        "x-ratelimit",
        "fractions",
        [QuotaReport("x-ratelimit", None, None, 594, 300_250 * MS)],
    ),
    # Envoy writes draft 3 under the old names
    ("x-ratelimit", "envoy", [QuotaReport("x-ratelimit", None, 10, 0, SECOND, SECOND)]),
    # X's names are hyphenated
    (
        "x-rate-limit",
        "epoch_seconds",
        [QuotaReport("x-rate-limit", None, 900, 847, 10 * MINUTE)],
    ),
]


def responses(api: str) -> dict[str, dict[str, Any]]:
    text = (FIXTURES / f"{api}.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["responses"])


@pytest.mark.parametrize("make", LIBRARIES)
@pytest.mark.parametrize(("api", "response", "reports"), CASES)
def test_what_each_api_says(
    make: type[Bare], api: str, response: str, reports: list[QuotaReport]
) -> None:
    """A documented response of each API, through any client library, gives its quotas."""
    sent = responses(api)[response]
    assert read(make(sent["status"], sent["headers"]), NOW) == tuple(reports)


def test_every_fixture_is_used_and_cites_its_source() -> None:
    """No response lies around that no case reads, and each file says where its form is from."""
    kept = {
        (path.stem, response) for path in FIXTURES.iterdir() for response in responses(path.stem)
    }
    assert {(api, response) for api, response, _ in CASES} == kept
    assert {report.dialect for *_, reports in CASES for report in reports} == {
        dialect.name for dialect in DIALECTS
    }
    for path in FIXTURES.iterdir():
        sources = json.loads(path.read_text(encoding="utf-8"))["sources"]
        assert sources
        assert all(source.startswith("https://") for source in sources)


@pytest.mark.parametrize("make", [httpx.Headers, requests.structures.CaseInsensitiveDict, dict])
def test_headers_alone_are_enough(make: Any) -> None:
    """Any mapping of headers is read like the response it is from, in any case of letters."""
    headers = {"X-RateLimit-limit": "50", "x-RATELIMIT-Remaining": "12", "X-Ratelimit-Reset": "24"}
    said = read(make(headers), NOW)
    assert said == (QuotaReport("x-ratelimit", None, 50, 12, 24 * SECOND),)


def test_only_a_429_says_that_something_is_exhausted() -> None:
    """Retry-After alone is a quota's word in a 429 and in nothing else."""
    after = {"Retry-After": "7"}
    assert read(Bare(429, after), NOW) == (
        QuotaReport("retry-after", remaining=0, reset_after=7 * SECOND),
    )
    assert read(Bare(503, after), NOW) == read(Bare(202, after), NOW) == read(after, NOW) == ()


def test_without_a_date_our_clock_stands_in() -> None:
    """An instant is measured from the response's Date, and from ``now`` only without one."""
    headers = {"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": str(SENT + 60)}
    (said,) = read(headers, SENT * SECOND)
    assert said.reset_after == MINUTE
    (said,) = read({**headers, "Date": "Thu, 12 Mar 2026 10:00:50 GMT"}, NOW)
    assert said.reset_after == 10 * SECOND


@pytest.mark.parametrize(
    ("reset", "after"),
    [
        ("2026-03-12T10:00:24Z", 24 * SECOND),  # ISO 8601, as most write it
        ("2026-03-12T12:00:24+02:00", 24 * SECOND),  # in a zone
        ("2026-03-12T10:00:24", 24 * SECOND),  # without one it is UTC
        ("2026-03-12 10:00:24.5Z", 24_500 * MS),  # with a space, and a part of a second
        ("2026-03-12T09:59:59Z", 0),  # it is over
        ("9999-12-31T23:59:59-14:00", LONGEST),  # past every calendar
        ("1d2h", DAY + 2 * HOUR),  # a length of time with days
        ("1d2h3m4s5ms", DAY + 2 * HOUR + 3 * MINUTE + 4 * SECOND + 5 * MS),
        ("6m0s", 6 * MINUTE),  # as Go writes it
        ("24s", 24 * SECOND),
        ("2026-13-12T10:00:24Z", None),  # no such month
        ("2026-03-12", None),  # no time
        ("2d1w", None),  # a unit nobody knows
    ],
)
@pytest.mark.parametrize("prefix", ["X-RateLimit", "X-Rate-Limit", "RateLimit"])
def test_a_reset_is_read_in_every_form(prefix: str, reset: str, after: int | None) -> None:
    """Instants of ISO 8601 and lengths of time are read; what is neither silences its row."""
    headers = {f"{prefix}-Remaining": "12", f"{prefix}-Reset": reset}
    said = read(headers, SENT * SECOND)
    assert [report.reset_after for report in said] == ([] if after is None else [after])


READ = QuotaReport("x-ratelimit", None, 50, 12, 24 * SECOND)
GENERIC = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "12", "X-RateLimit-Reset": "24"}

# headers, what is read from them
ODD: list[tuple[Mapping[Any, Any], list[QuotaReport]]] = [
    # nothing
    ({}, []),
    # when, but not of what
    ({"X-RateLimit-Reset": "24"}, []),
    # less than nothing is left
    ({**GENERIC, "X-RateLimit-Remaining": "-1"}, []),
    # a word
    ({**GENERIC, "X-RateLimit-Remaining": "many"}, []),
    # an empty header
    ({**GENERIC, "X-RateLimit-Remaining": ""}, []),
    # not a number
    ({**GENERIC, "X-RateLimit-Remaining": "NaN"}, []),
    # an exponent
    ({**GENERIC, "X-RateLimit-Remaining": "1e3"}, []),
    # sent twice
    ({**GENERIC, "X-RateLimit-Remaining": "12, 11"}, []),
    # sent twice, and not as policies
    ({**GENERIC, "X-RateLimit-Limit": "50, 60"}, []),
    # sent twice, in two cases
    ({**GENERIC, "x-ratelimit-limit": "60"}, []),
    # a number nobody means
    ({**GENERIC, "X-RateLimit-Reset": "9" * 400}, []),
    # digits of another script
    ({**GENERIC, "X-RateLimit-Reset": "٢٤"}, []),
    # a date
    ({**GENERIC, "X-RateLimit-Reset": "Thu, 12 Mar 2026 10:00:00 GMT"}, []),
    # ten kilobytes
    ({**GENERIC, "X-RateLimit-Limit": "5" * 10_000}, []),
    # no text: no header
    (
        {**GENERIC, "X-RateLimit-Limit": 50},
        [QuotaReport("x-ratelimit", None, None, 12, 24 * SECOND)],
    ),
    # no name: no header
    ({**GENERIC, b"X-RateLimit-Limit": "60"}, [READ]),
    # more than there is
    (
        {**GENERIC, "X-RateLimit-Remaining": "51"},
        [QuotaReport("x-ratelimit", None, 50, 50, 24 * SECOND)],
    ),
    # in thirty years
    (
        {**GENERIC, "X-RateLimit-Reset": "999999999"},
        [QuotaReport("x-ratelimit", None, 50, 12, LONGEST)],
    ),
    # in 2001: it is over
    ({**GENERIC, "X-RateLimit-Reset": "1000000000"}, [QuotaReport("x-ratelimit", None, 50, 12, 0)]),
    # rounded up
    (
        {**GENERIC, "X-RateLimit-Reset": " 0.0000001 "},
        [QuotaReport("x-ratelimit", None, 50, 12, 1)],
    ),
    # the standard's word counts
    (
        {**GENERIC, "RateLimit": '"default";r=5;t=1'},
        [QuotaReport("ietf", "default", None, 5, SECOND)],
    ),
    # so does the older draft's
    ({**GENERIC, "RateLimit-Remaining": "5"}, [QuotaReport("ietf-06", None, None, 5)]),
    # unless it is broken
    ({**GENERIC, "RateLimit": '"default";r=5;'}, [READ]),
    # less than nothing
    ({"RateLimit": '"default";r=-5;t=1'}, []),
    # no integer
    ({"RateLimit": '"default";r=0.5;t=1'}, []),
    # a flag
    ({"RateLimit": '"default";r;t=1'}, []),
    # nothing about what is left
    ({"RateLimit": '"default";t=1'}, []),
    # no name
    ({"RateLimit": '"";r=5'}, []),
    # a name nobody can read
    ({"RateLimit": f'"{"x" * 200}";r=5'}, []),
    # a broken policy is no policy
    (
        {"RateLimit": '"default";r=5', "RateLimit-Policy": "oops;;"},
        [QuotaReport("ietf", "default", None, 5)],
    ),
    # draft 7, less than nothing
    ({"RateLimit": "limit=100, remaining=-1, reset=5"}, []),
    # a window of no time
    ({"RateLimit-Policy": '"default";q=100;w=0'}, [QuotaReport("ietf", "default", 100)]),
    # GitHub says nothing
    ({"X-GitHub-Request-Id": "C0A8:1F"}, []),
    # more used than allowed
    (
        {"X-GitHub-Request-Id": "C0A8:1F", "X-RateLimit-Limit": "60", "X-RateLimit-Used": "70"},
        [QuotaReport("github", None, 60, 0)],
    ),
    # not GitHub's name
    ({**GENERIC, "X-RateLimit-Resource": "a\nb"}, [READ]),
    # half of it
    ({"X-Shopify-Shop-Api-Call-Limit": "32"}, []),
    # a bucket without room
    ({"X-Shopify-Shop-Api-Call-Limit": "0/0"}, []),
    # more of it
    ({"X-Shopify-Shop-Api-Call-Limit": "1/2/3"}, []),
    # an overfull bucket
    (
        {"X-Shopify-Shop-Api-Call-Limit": "50/40"},
        [bucket("shopify", None, 40, 0, 25 * SECOND, interval=500 * MS)],
    ),
    # one of two quotas
    (
        {"X-HubSpot-RateLimit-Max": "x", "X-HubSpot-RateLimit-Daily-Remaining": "9"},
        [QuotaReport("hubspot", "daily", None, 9, None, DAY)],
    ),
    # a part of a call
    (
        {"X-HubSpot-RateLimit-Daily-Remaining": "9.9"},
        [QuotaReport("hubspot", "daily", None, 9, None, DAY)],
    ),
    # a space in a duration
    ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m 0s"}, []),
    # a duration that is over
    ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "-1s"}, []),
    # for ever
    (
        {"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "999999999h"},
        [bucket("openai", "tokens", None, 7, LONGEST, unit="tokens")],
    ),
    # an unreadable wait
    ({"Stripe-Rate-Limited-Reason": "global-rate", "Retry-After": "soon"}, []),
]


@pytest.mark.parametrize(("headers", "reports"), ODD)
def test_what_cannot_be_read_is_left_out(
    headers: Mapping[Any, Any], reports: list[QuotaReport]
) -> None:
    """A header that cannot be read silences its row; what is out of bounds is brought inside."""
    assert read(headers, NOW) == tuple(reports)


@pytest.mark.parametrize("odd", [None, 7, "text", b"", [], object(), {"status_code": 429}, Bare])
def test_what_is_no_response_says_nothing(odd: object) -> None:
    """Anything may be asked, as an exception's response may be anything."""
    assert read(odd, NOW) == ()


NAMES = sorted(
    {name for dialect in DIALECTS for name in dialect.headers}
    | {"date", "retry-after", "x-ratelimit-used"}
)
NUMBERS = ["0", "1", "60", "-1", "NaN", "1e9", "1773309660", "1773309660000", "9" * 30, "6m0s"]
NUMBERS += ["1d2h", "2026-03-12T10:00:24Z", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00+14:00"]
LISTS = ['"default";r=1;t=2', '"default";q=1;w=2', "limit=1, remaining=2, reset=3", "1;w=1, 2;w=2"]
OTHERS = [
    "32/40",
    "core",
    ", ",
    ";",
    "Thu, 12 Mar 2026 10:00:00 GMT",
    "x" * 10_000,
    "\x00",
    "٣",
    "",
]
SCRAPS = st.sampled_from(NUMBERS + LISTS + OTHERS)
TEXTS = st.one_of(
    SCRAPS, st.lists(SCRAPS, max_size=4).map("".join), st.text(), st.integers().map(str)
)


@given(
    headers=st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=8),
    status=st.sampled_from([200, 403, 429, 503]),
    now=st.integers(0, 2**63),
)
@example({"ratelimit-policy": "1;w=999999999999999", "ratelimit-limit": "1"}, 200, 0)
def test_no_headers_raise_or_escape_their_bounds(
    headers: dict[str, str], status: int, now: int
) -> None:
    """Whatever a server sends, every report is within its bounds and says something."""
    for report in read(Bare(status, headers), now):
        limit, remaining = report.limit, report.remaining
        assert limit is not None or remaining is not None
        assert limit is None or 0 <= limit < 10**15
        assert remaining is None or 0 <= remaining < 10**15
        assert limit is None or remaining is None or remaining <= limit
        assert report.reset_after is None or 0 <= report.reset_after <= LONGEST
        assert report.window is None or 0 < report.window <= LONGEST
        assert (report.interval is not None) <= (report.kind == "bucket")
        assert report.interval is None or 0 < report.interval <= LONGEST
        assert report.name is None or report.name.isprintable()
