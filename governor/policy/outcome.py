"""The outcome of one call, as far as it concerns the upstream."""

from __future__ import annotations

from enum import StrEnum

from governor.errors import NotAdmitted, Throttled
from governor.policy.failure import causes, http_status


class Outcome(StrEnum):
    """The outcome of one call, as far as it concerns the upstream.

    Throttled and failed calls are *dropped*: they lower an adaptive rate. Only failed ones open a
    breaker.
    """

    SUCCESS = "success"
    """The upstream answered, if only to say that the call was wrong."""
    IGNORED = "ignored"
    """Nothing: the call was not made, or failed on our side."""
    THROTTLED = "throttled"
    """The upstream said "not now"."""
    FAILED = "failed"
    """The upstream could not be reached, did not answer in time, or said that it is broken."""

    @property
    def dropped(self) -> bool:
        """Tell whether the upstream could not take the call."""
        return self in {Outcome.THROTTLED, Outcome.FAILED}


_UNREACHED = frozenset(
    {
        "TransportError", "ConnectionError", "Timeout", "ConnectError", "ConnectTimeout",
        "ReadTimeout", "WriteTimeout", "PoolTimeout", "ReadError", "RemoteProtocolError",
        "TimeoutError", "ClientConnectionError", "APIConnectionError", "HTTPClientError",
        "URLError",
    }
)  # fmt: skip
"""Under these names HTTP clients (httpx; requests; aiohttp; openai; botocore; urllib) raise when a
call could not be made or was not answered."""

_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_WORST_FIRST = (Outcome.FAILED, Outcome.THROTTLED, Outcome.SUCCESS)


def outcome_of_status(status: int) -> Outcome:
    """Say what the status of a response means for its upstream."""
    if status == _TOO_MANY_REQUESTS:
        return Outcome.THROTTLED
    return Outcome.FAILED if status >= _SERVER_ERROR else Outcome.SUCCESS


def outcome_of(exc: BaseException, *, retryable: bool = False) -> Outcome:
    """Return the outcome of a call that ended with ``exc``.

    Args:
        retryable: the task's retry policy names it.
    """
    links = list(causes(exc))
    if any(isinstance(link, NotAdmitted) for link in links):
        return Outcome.IGNORED
    said = {_said_by(link) for link in links}
    for outcome in _WORST_FIRST:
        if outcome in said:
            return outcome
    return Outcome.FAILED if retryable else Outcome.IGNORED


def _said_by(exc: BaseException) -> Outcome | None:
    if isinstance(exc, Throttled):
        return Outcome.THROTTLED
    status = http_status(exc)
    if status is not None:
        return outcome_of_status(status)
    names = {cls.__name__ for cls in type(exc).__mro__}
    return None if _UNREACHED.isdisjoint(names) else Outcome.FAILED
