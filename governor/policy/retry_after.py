"""What an upstream's response says about when it may be called again.

Responses and exceptions are read by their attributes (``status_code``, ``headers``,
``response``), so both ``httpx`` and ``requests`` are understood without importing either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz
from typing import Any

from governor.clock import SECOND, as_micros
from governor.errors import Throttled

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. A longer Retry-After is cut to this: one bad header must not stop a fleet for a year."""

_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_LONGEST_DATE = 64
_TOO_MANY_REQUESTS = 429
_SERVICE_UNAVAILABLE = 503


def parse_retry_after(value: str | float | None, now: int) -> float | None:
    """Seconds to wait according to a ``Retry-After`` value; ``now`` is wall microseconds.

    Understands seconds (fractions too, which some APIs send) and the three HTTP date forms.
    A moment in the past is 0, more than a day is a day, and what cannot be read is ``None``.
    """
    if isinstance(value, str):
        text = value.strip()
        if _SECONDS.fullmatch(text):
            return _bounded(float(text))
        moment = _http_date(text)
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
    status = _status(response)
    if status not in (_TOO_MANY_REQUESTS, _SERVICE_UNAVAILABLE):
        return None
    sent = _http_date(_header(response, "date") or "")
    wait = parse_retry_after(_header(response, "retry-after"), now if sent is None else sent)
    if status == _SERVICE_UNAVAILABLE and wait is None:
        return None
    return Throttled(retry_after=wait)


def throttled_from_exception(exc: BaseException, now: int) -> Throttled | None:
    """As :func:`from_response`, for the ``response`` of an HTTP error; ``None`` without one."""
    return from_response(getattr(exc, "response", None), now)


def http_status(exc: BaseException) -> int | None:
    """The status of the response an HTTP error carries, ``None`` without one."""
    return _status(getattr(exc, "response", None))


def _status(response: Any) -> int | None:
    status = getattr(response, "status_code", None)
    return int(status) if isinstance(status, int) and not isinstance(status, bool) else None


def _header(response: Any, name: str) -> str | None:
    """A header by its lower-case name, whatever kind of mapping the client library keeps."""
    headers = getattr(response, "headers", None)
    if not isinstance(headers, Mapping):
        return None
    for key, value in headers.items():
        if isinstance(key, str) and key.lower() == name and isinstance(value, str):
            return value
    return None


def _http_date(text: str) -> int | None:
    """An HTTP date as wall microseconds; ``None`` when it is not one."""
    parsed = parsedate_tz(text) if len(text) <= _LONGEST_DATE else None
    if parsed is None:
        return None
    year, month, day, hour, minute, second = parsed[:6]
    try:
        # A leap second is written as :60, which datetime does not know.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        moment -= timedelta(seconds=parsed[9] or 0)
    except (ValueError, OverflowError):
        return None
    return as_micros(moment)


def _bounded(seconds: float) -> float:
    return float(min(max(seconds, 0), LONGEST_RETRY_AFTER))
