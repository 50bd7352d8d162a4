"""Reading from an upstream's response when it may be called again.

Responses and exceptions are read by their attributes, so both ``httpx`` and ``requests`` are
understood without importing either.
"""

from __future__ import annotations

from typing import Any

from governor.clock import SECOND, micros, seconds
from governor.errors import Throttled
from governor.foreign import attribute
from governor.headers.dialects import read
from governor.headers.http_message import headers_of, response_of, sent_at, status_of
from governor.headers.values import LONGEST_RETRY_AFTER, parse_retry_after
from governor.policy.failure import causes

_FORBIDDEN = 403
_TOO_MANY_REQUESTS = 429
_SERVICE_UNAVAILABLE = 503
_FIRST_BACK_OFF = SECOND
_LONGEST_BACK_OFF = 60 * SECOND


def from_response(response: Any, now: int) -> Throttled | None:
    """The :class:`~governor.errors.Throttled` a response amounts to, or ``None``.

    A 429 always is one. A 503 is one only with a Retry-After that can be read: without it the
    call may have happened, and then only an idempotent task may try again. A 403 is one with a
    Retry-After, or if it says that a quota has nothing left, as GitHub's does.

    A date is measured against the response's own ``Date``, so that the wait does not depend
    on this machine's clock; ``now`` (wall microseconds) stands in when there is none.
    """
    status = status_of(response)
    if status not in (_FORBIDDEN, _TOO_MANY_REQUESTS, _SERVICE_UNAVAILABLE):
        return None
    headers = headers_of(response)
    wait = parse_retry_after(headers.get("retry-after"), sent_at(headers, now))
    if status == _FORBIDDEN and wait is None:
        return _exhausted(response, now)
    if status == _SERVICE_UNAVAILABLE and wait is None:
        return None
    return Throttled(retry_after=wait)


def throttled_from_exception(exc: BaseException, now: int) -> Throttled | None:
    """As :func:`from_response`, for the response of an HTTP error; ``None`` without one.

    A :class:`~governor.errors.Throttled` is one itself. Of an error that the user made of an HTTP
    error (``raise … from``), the first that has a response counts. Of a group of errors none
    does: other calls of the group may have been made.
    """
    for link in causes(exc):
        if isinstance(link, Throttled):
            return link
        if isinstance(link, BaseExceptionGroup):
            return None
        response = response_of(link)
        if response is not None:
            return from_response(response, now)
    return None


def pause_of(throttled: Throttled, throttles: int) -> int:
    """How long the fleet stays away: as long as the upstream said, else longer each time.

    "At once", as a Retry-After of 0 or of a moment past says it, is no answer to "not now".

    Args:
        throttles: how often in a row it has said so before.
    """
    said = micros(attribute(throttled, "retry_after") or 0)
    return said if said > 0 else int(min(_FIRST_BACK_OFF << min(throttles, 10), _LONGEST_BACK_OFF))


def _exhausted(response: Any, now: int) -> Throttled | None:
    """A refusal because a quota is used up, until it is whole again."""
    spent = [report.reset_after or 0 for report in read(response, now) if report.remaining == 0]
    if not spent:
        return None
    wait = min(seconds(max(spent)), LONGEST_RETRY_AFTER)
    return Throttled(retry_after=wait or None)
