"""Reading what the headers of an upstream's response say about its quotas.

APIs say it in dialects. :data:`DIALECTS` is the table of those that are understood, one row for
each quota. A header that is there and cannot be read silences its row, and no value raises.
Whether to wait after a refusal, and how long, is for :mod:`governor.policy.retry_after` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from governor.clock import SECOND
from governor.headers import values
from governor.headers.http_message import headers_of, sent_at, status_of
from governor.headers.ietf import dictionary, policies, triple
from governor.headers.report import Answer, Dialect, QuotaReport
from governor.headers.values import Moment, UnreadableError

__all__ = ["DIALECTS", "QuotaReport", "read"]

_DAY = 86_400 * SECOND
_SHOPIFY_DRAINS = 20 * SECOND
_TOO_MANY_REQUESTS = 429


def read(response_or_headers: Any, now: int) -> tuple[QuotaReport, ...]:
    """Every quota that a response, or a mapping of its headers, speaks of.

    ``now`` (wall microseconds) stands in for the response's ``Date`` where there is none.
    A mapping has no status, so what only a 429 says is not read from one.
    """
    headers = headers_of(response_or_headers)
    answer = Answer(headers, status_of(response_or_headers), sent_at(headers, now))
    reports: list[QuotaReport] = []
    for dialect in DIALECTS:
        if not (dialect.alone and reports):
            reports += dialect.reports(answer)
    return tuple(reports)


def _counter(
    dialect: str,
    limit: str,
    remaining: str,
    *,
    reset: tuple[str, Moment] | None = None,
    window: str | int | None = None,
    **said: Any,
) -> Dialect:
    """A row for a quota whose numbers have a header each.

    ``reset`` is a header and how to read it. ``window`` is a header in milliseconds, or the
    window itself. What is ``said`` is the same in every report.
    """

    def parse(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
        yield QuotaReport(
            dialect,
            limit=answer.count(limit),
            remaining=answer.count(remaining),
            reset_after=answer.time(*reset) if reset else None,
            window=answer.time(window, values.in_milliseconds)
            if isinstance(window, str)
            else window,
            **said,
        )

    headers = (limit, remaining, reset[0] if reset else None, window)
    return Dialect(dialect, tuple(name for name in headers if isinstance(name, str)), parse)


def _github(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
    """The triple of a response that bears GitHub's marks. Its reset is an instant."""
    limit, used = answer.count("x-ratelimit-limit"), answer.count("x-ratelimit-used")
    remaining = answer.count("x-ratelimit-remaining")
    if remaining is None and limit is not None and used is not None:
        remaining = max(0, limit - used)
    yield QuotaReport(
        dialect,
        answer.name("x-ratelimit-resource"),
        limit,
        remaining,
        answer.time("x-ratelimit-reset", values.at_epoch),
    )


def _shopify(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
    """``32/40``: how full the bucket is, and its size. A refusal says that nothing fits."""
    level, _, size = answer.headers["x-shopify-shop-api-call-limit"].partition("/")
    used, limit = values.count(level), values.count(size)
    if limit == 0:
        raise UnreadableError
    refused = answer.status == _TOO_MANY_REQUESTS
    wait = answer.time("retry-after", values.of_retry_after) if refused else None
    yield QuotaReport(
        dialect,
        limit=limit,
        remaining=0 if refused else max(0, limit - used),
        reset_after=max(values.length(Fraction(_SHOPIFY_DRAINS * used, limit)), wait or 0),
        kind="bucket",
        interval=values.length(Fraction(_SHOPIFY_DRAINS, limit)),
    )


def _refusal(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
    """A 429: some quota has nothing left, and perhaps until when."""
    name = answer.name("stripe-rate-limited-reason")
    if answer.status == _TOO_MANY_REQUESTS or name is not None:
        wait = answer.time("retry-after", values.of_retry_after)
        yield QuotaReport(dialect, name, remaining=0, reset_after=wait)


DIALECTS: tuple[Dialect, ...] = (
    # The IETF's current draft: RateLimit: "default";r=50;t=30, RateLimit-Policy:
    # "default";q=100;w=60. Its t is when more becomes available, at the latest when all does.
    # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    Dialect("ietf", ("ratelimit", "ratelimit-policy"), policies),
    # Its draft 7. https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
    Dialect("ietf-07", ("ratelimit",), dictionary),
    # GitHub. The reset is in epoch seconds, of GitHub's clock.
    # https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    Dialect("github", ("x-ratelimit-resource", "x-github-request-id"), _github),
    # Shopify's REST Admin API. The header gives the bucket's size; every plan's bucket leaks
    # empty in 20 s: 40 at 2/s, 80 at 4/s, 400 at 20/s.
    # https://shopify.dev/docs/api/admin-rest/usage/rate-limits
    Dialect("shopify", ("x-shopify-shop-api-call-limit",), _shopify),
    # Stripe names the limiter that refused, and no numbers. https://docs.stripe.com/rate-limits
    Dialect("stripe", ("stripe-rate-limited-reason",), _refusal),
    # HubSpot. None of its headers says when; the day ends at midnight in the account's time zone.
    # https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines
    _counter(
        "hubspot",
        "x-hubspot-ratelimit-max",
        "x-hubspot-ratelimit-remaining",
        window="x-hubspot-ratelimit-interval-milliseconds",
        name="interval",
    ),
    _counter(
        "hubspot",
        "x-hubspot-ratelimit-secondly",
        "x-hubspot-ratelimit-secondly-remaining",
        window=SECOND,
        name="secondly",
    ),
    _counter(
        "hubspot",
        "x-hubspot-ratelimit-daily",
        "x-hubspot-ratelimit-daily-remaining",
        window=_DAY,
        name="daily",
    ),
    # OpenAI. A reset is how long until "its initial state": 1s after one request of 60 a minute,
    # so it leaks. https://platform.openai.com/docs/guides/rate-limits
    *(
        _counter(
            "openai",
            f"x-ratelimit-limit-{counted}",
            f"x-ratelimit-remaining-{counted}",
            reset=(f"x-ratelimit-reset-{counted}", values.duration),
            name=counted,
            kind="bucket",
            unit=unit,
        )
        for counted, unit in (
            ("requests", "requests"),
            ("tokens", "tokens"),
            ("project-tokens", "tokens"),
        )
    ),
    # The IETF's drafts up to 6. GitLab's reset is in epoch seconds, Docker Hub sends no reset.
    # https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06
    # https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits
    # https://docs.docker.com/docker-hub/usage/pulls/
    triple("ietf-06", "ratelimit"),
    # Everybody else, under names that mean something else to each of them.
    # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (its survey)
    triple("x-ratelimit", "x-ratelimit"),
    # X. Its reset is in epoch seconds. https://docs.x.com/x-api/fundamentals/rate-limits
    triple("x-rate-limit", "x-rate-limit"),
    # Slack, and everybody who says only this. https://docs.slack.dev/apis/web-api/rate-limits
    Dialect("retry-after", ("retry-after",), _refusal, alone=True),
)
