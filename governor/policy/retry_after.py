"""What an upstream's response says about when it may be called again.

Responses and exceptions are read by their attributes, so both ``httpx`` and ``requests`` are
understood without importing either.
"""

from __future__ import annotations

import math
import re
from typing import Any

from governor.clock import SECOND, micros
from governor.errors import Throttled
from governor.policy.http_message import headers_of, http_date, sent_at, status_of

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. A longer Retry-After is cut to this: one bad header must not stop a fleet for a year."""

_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_TOO_MANY_REQUESTS = 429
_SERVICE_UNAVAILABLE = 503
_FIRST_BACK_OFF = SECOND
_LONGEST_BACK_OFF = 60 * SECOND


def parse_retry_after(value: str | float | None, now: int) -> float | None:
    """Seconds to wait according to a ``Retry-After`` value; ``now`` is wall microseconds.

    Understands seconds (fractions too, which some APIs send) and the three HTTP date forms.
    A moment in the past is 0, more than a day is a day, and what cannot be read is ``None``.
    """
    if isinstance(value, str):
        text = value.strip()
        if _SECONDS.fullmatch(text):
            return _bounded(float(text))
        moment = http_date(text)
        return None if moment is None else _bounded((moment - now) / SECOND)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return _bounded(value)


def from_response(response: Any, now: int) -> Throttled | None:
    """The :class:`~governor.errors.Throttled` a response amounts to, or ``None``.

    A 429 always is one. A 503 is one only with a Retry-After that can be read: without it the
    call may have happened, and then only an idempotent task may try again.

    A date is measured against the response's own ``Date``, so that the wait does not depend
    on this machine's clock; ``now`` (wall microseconds) stands in when there is none.
    """
    status = status_of(response)
    if status not in (_TOO_MANY_REQUESTS, _SERVICE_UNAVAILABLE):
        return None
    headers = headers_of(response)
    wait = parse_retry_after(headers.get("retry-after"), sent_at(headers, now))
    if status == _SERVICE_UNAVAILABLE and wait is None:
        return None
    return Throttled(retry_after=wait)


def throttled_from_exception(exc: BaseException, now: int) -> Throttled | None:
    """As :func:`from_response`, for the ``response`` of an HTTP error; ``None`` without one."""
    return from_response(getattr(exc, "response", None), now)


def pause_of(throttled: Throttled, throttles: int) -> int:
    """How long the fleet stays away: as long as the upstream said, else longer each time.

    Args:
        throttles: how often in a row it has said so before.
    """
    if throttled.retry_after is not None:
        return max(1, micros(throttled.retry_after))
    return int(min(_FIRST_BACK_OFF << min(throttles, 10), _LONGEST_BACK_OFF))


def http_status(exc: BaseException) -> int | None:
    """The status of the response an HTTP error carries, ``None`` without one."""
    return status_of(getattr(exc, "response", None))


def _bounded(seconds: float) -> float:
    return float(min(max(seconds, 0), LONGEST_RETRY_AFTER))
