"""The parts of an HTTP response that rate limits are said in: status, headers, dates.

Responses are read by their attributes (``status_code``, ``headers``), so ``httpx``, ``requests``
and anything like them are understood without importing any. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz
from typing import Any

from governor.clock import as_micros

_LONGEST_DATE = 64


def status_of(response: Any) -> int | None:
    """The status code of a response, ``None`` without one."""
    status = getattr(response, "status_code", None)
    return int(status) if isinstance(status, int) and not isinstance(status, bool) else None


def headers_of(response_or_headers: Any) -> dict[str, str]:
    """The headers by their lower-case names, of a response or of the mapping that holds them.

    A header that was sent several times is one list, as HTTP has it: joined by commas.
    """
    headers = response_or_headers
    if not isinstance(headers, Mapping):
        headers = getattr(headers, "headers", None)
    if not isinstance(headers, Mapping):
        return {}
    found: dict[str, str] = {}
    for key, value in headers.items():
        if isinstance(key, str) and isinstance(value, str):
            name, text = key.lower(), value.strip()
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def http_date(text: str) -> int | None:
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


def sent_at(headers: Mapping[str, str], now: int) -> int:
    """When the response was sent, by its own ``Date`` (wall microseconds); ``now`` without one.

    What a response says about an instant is measured from here, so that it does not depend on
    this machine's clock. A ``Date`` is cut to the second: a wait measured from it is at most a
    second too long and never too short.
    """
    sent = http_date(headers.get("date", ""))
    return now if sent is None else sent
