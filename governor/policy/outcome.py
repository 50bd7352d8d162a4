"""What one call said about its upstream."""

from __future__ import annotations

from enum import StrEnum

from governor.errors import Throttled


class Outcome(StrEnum):
    """What one call said about its upstream. Throttled and failed calls are *dropped*: they lower
    an adaptive rate. Only failed ones open a breaker."""

    SUCCESS = "success"
    """It answered, if only to say that the call was wrong."""
    IGNORED = "ignored"
    """Nothing: the call was not made, or failed on our side."""
    THROTTLED = "throttled"
    """It said "not now"."""
    FAILED = "failed"
    """It could not be reached, did not answer in time, or answered that it is broken."""

    @property
    def dropped(self) -> bool:
        """Whether the upstream could not take the call."""
        return self in {Outcome.THROTTLED, Outcome.FAILED}


_UNREACHED = frozenset({"TransportError", "ConnectionError", "Timeout"})
"""Names of the base classes under which HTTP clients (httpx; requests) raise when a call could not
be made or was not answered."""

_SERVER_ERROR = 500


def outcome_of(exc: BaseException, status: int | None, *, retryable: bool = False) -> Outcome:
    """What a call that ended with ``exc`` said about its upstream.

    Args:
        status: of the response, when there was one.
        retryable: the task's retry policy names it.
    """
    if isinstance(exc, Throttled):
        return Outcome.THROTTLED
    if status is not None:
        return Outcome.FAILED if status >= _SERVER_ERROR else Outcome.SUCCESS
    unreached = any(cls.__name__ in _UNREACHED for cls in type(exc).__mro__)
    if retryable or unreached or isinstance(exc, (ConnectionError, TimeoutError)):
        return Outcome.FAILED
    return Outcome.IGNORED
