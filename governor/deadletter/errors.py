"""Errors of the dead-letter tools."""

from __future__ import annotations

from governor.errors import DatabaseUnavailable, GovernorError


class RowRefused(DatabaseUnavailable):
    """The database is there and refuses this row: trying again will not help."""


class SpillFailed(GovernorError):
    """The death could not be kept on disk either."""


class UnknownDeadLetter(GovernorError):
    """There is no dead letter with this id."""


class Changed(GovernorError):
    """The dead letter changed since it was read."""
