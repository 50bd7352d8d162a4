"""The parts of an HTTP response that rate limits are said in: status, headers, dates.

Responses are read by their attributes (``status_code``, ``headers``), so ``httpx``, ``requests``
and anything like them are understood without importing any. Nothing here raises: a property of
somebody else's class that does has nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz
from typing import Any

from governor.clock import as_micros
from governor.foreign import attribute, quietly

_LONGEST_DATE = 64


@dataclass(frozen=True, slots=True)
class Response:
    """Status and headers of a response that has no ``status_code`` itself."""

    status_code: int
    headers: Any


def status_of(response: Any) -> int | None:
    """The status code of a response, ``None`` without one."""
    return _whole(attribute(response, "status_code"))


def response_of(exc: BaseException) -> Any:
    """The response an HTTP client's exception stands for, ``None`` without one.

    httpx and requests give the exception a ``response``, botocore one that is a mapping; of
    aiohttp and urllib the exception itself has status and headers.
    """
    response = attribute(exc, "response")
    if isinstance(response, Mapping):
        return quietly(lambda: _of_botocore(response), None)
    if status_of(response) is not None:
        return response
    status = _whole(attribute(response, "status"))
    if status is not None:
        return Response(status, attribute(response, "headers"))
    headers = attribute(exc, "headers")
    for name in ("status_code", "status", "code"):
        status = _whole(attribute(exc, name))
        # A bare code may be anything, as that of SystemExit.
        if status is not None and 100 <= status <= 599 and (name != "code" or headers is not None):
            return Response(status, headers)
    return None


def headers_of(response_or_headers: Any) -> dict[str, str]:
    """The headers by their lower-case names, of a response or of the mapping that holds them.

    A header that was sent several times is one list, as HTTP has it: joined by commas.
    """
    headers = response_or_headers
    if not isinstance(headers, Mapping):
        headers = attribute(headers, "headers")
    found: dict[str, str] = {}
    # Those of urllib are no mapping, and have items like one.
    items: list[tuple[Any, Any]] = quietly(lambda: list(headers.items()), [])
    for key, value in items:
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
    """The instant a response was sent (wall µs), by its own ``Date``; ``now`` without one.

    What a response says about an instant is measured from here, so that it does not depend on
    this machine's clock. A ``Date`` is cut to the second: a wait measured from it is at most a
    second too long and never too short.
    """
    sent = http_date(headers.get("date", ""))
    return now if sent is None else sent


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _of_botocore(response: Mapping[Any, Any]) -> Response | None:
    said = response["ResponseMetadata"]
    status = _whole(said["HTTPStatusCode"])
    return None if status is None else Response(status, said.get("HTTPHeaders"))
