"""The rate-limit headers of the IETF's drafts, which changed their form twice.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

from __future__ import annotations

from collections import UserString
from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import floor
from typing import Any

from governor.clock import SECOND
from governor.headers import values
from governor.headers.report import Answer, Dialect, QuotaReport
from governor.headers.structured_fields import Item, parse_dictionary, parse_list
from governor.headers.values import UnreadableError


def policies(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
    """Drafts 8 and later: what is left and what is allowed, joined by the policies' names."""
    left = {item.value: item.params for item in answer.items("ratelimit")}
    allowed = {item.value: item.params for item in answer.items("ratelimit-policy")}
    for name in left | allowed:
        if isinstance(name, str | UserString):  # a string, or a token
            state, policy = left.get(name, {}), allowed.get(name, {})
            yield QuotaReport(
                dialect,
                values.name(str(name)),
                limit=_whole(policy, "q"),
                remaining=_whole(state, "r"),
                reset_after=_seconds(state, "t"),
                window=_seconds(policy, "w"),
                unit=values.name(str(policy.get("qu", "requests"))),
            )


def dictionary(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
    """Draft 7: ``limit=100, remaining=50, reset=5``."""
    said = parse_dictionary(answer.headers["ratelimit"]) or {}
    numbers = {key: item.value for key, item in said.items()}
    limit = _whole(numbers, "limit")
    yield QuotaReport(
        dialect,
        limit=limit,
        remaining=_whole(numbers, "remaining"),
        reset_after=_seconds(numbers, "reset"),
        window=_window(limit, answer.items("ratelimit-policy")),
    )


def triple(dialect: str, prefix: str) -> Dialect:
    """Make a row for drafts 0 to 6, whose three headers everywhere look a little different.

    The limit may be followed by policies (``10, 10;w=1, 600;w=60``), and both numbers by their
    window (``76;w=21600``). When the quota resets is guessed by the number's size.
    """
    headers = [f"{prefix}-{word}" for word in ("limit", "remaining", "reset", "policy", "name")]
    limit, remaining, reset, policy, name = headers

    def parse(dialect: str, answer: Answer) -> Iterator[QuotaReport]:
        allowed, left = _numbers(answer, limit), _numbers(answer, remaining)
        if len(left) > 1 or not all("w" in item.params for item in allowed[1:]):
            raise UnreadableError  # one header was sent twice
        most = _amount(allowed[0].value) if allowed else None
        yield QuotaReport(
            dialect,
            answer.name(name),
            most,
            _amount(left[0].value) if left else None,
            answer.time(reset, values.guessed),
            _window(most, [*allowed, *answer.items(policy)]),
        )

    return Dialect(dialect, tuple(headers), parse, alone=True)


def _whole(params: Mapping[str, Any], key: str) -> int | None:
    value = params.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UnreadableError
    return value


def _seconds(params: Mapping[str, Any], key: str) -> int | None:
    whole = _whole(params, key)
    return None if whole is None else values.length(whole * SECOND)


def _window(limit: int | None, policies: list[Item]) -> int | None:
    """The window of the policy that allows ``limit``: drafts 3 to 7 name policies by it."""
    for policy in policies:
        if policy.value == limit and "w" in policy.params:
            return _seconds(policy.params, "w")
    return None


def _numbers(answer: Answer, header: str) -> list[Item]:
    """A list of numbers, which is empty only if the header is not there."""
    text = answer.headers.get(header)
    if text is None:
        return []
    items = parse_list(text)
    if not items or any(_amount(item.value) is None for item in items):
        raise UnreadableError
    return items


def _amount(value: Any) -> int | None:
    """A number that is not negative, rounded down."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        return None
    return floor(value)
