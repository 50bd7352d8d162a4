"""What one call said about its upstream."""

from __future__ import annotations

import re
from enum import StrEnum

from governor.errors import NotAdmitted, Throttled


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


_UNREACHED = frozenset(
    {
        "TransportError", "ConnectionError", "Timeout", "ConnectError", "ConnectTimeout",
        "ReadTimeout", "WriteTimeout", "PoolTimeout", "ReadError", "RemoteProtocolError",
    }
)  # fmt: skip
"""Under these names HTTP clients (httpx; requests) raise when a call could not be made or was not
answered."""

_STATUS_ERRORS = frozenset({"HTTPStatusError", "HTTPError"})
_SAID = re.compile(r"\b([1-5][0-9][0-9])\b")

_SERVER_ERROR = 500


def outcome_of_status(status: int) -> Outcome:
    """What a response that is no refusal says about its upstream."""
    return Outcome.FAILED if status >= _SERVER_ERROR else Outcome.SUCCESS


def outcome_of(exc: BaseException, status: int | None, *, retryable: bool = False) -> Outcome:
    """What a call that ended with ``exc`` said about its upstream.

    Args:
        status: of the response, when there was one.
        retryable: the task's retry policy names it.
    """
    if isinstance(exc, NotAdmitted):
        return Outcome.IGNORED
    if isinstance(exc, Throttled):
        return Outcome.THROTTLED
    # Celery carries an exception that cannot be pickled as its name and its text.
    name = getattr(exc, "exc_cls_name", type(exc).__name__)
    if status is None and name in _STATUS_ERRORS:
        said = _SAID.search(str(exc))
        status = int(said[1]) if said else None
    if status is not None:
        return outcome_of_status(status)
    bases = {name, *(cls.__name__ for cls in type(exc).__mro__)}
    unreached = not _UNREACHED.isdisjoint(bases)
    if retryable or unreached or isinstance(exc, (ConnectionError, TimeoutError)):
        return Outcome.FAILED
    return Outcome.IGNORED
