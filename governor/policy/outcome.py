"""What one call said about its upstream."""

from __future__ import annotations

from enum import StrEnum


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
