"""The errors that leave the governor, all of them.

::

    GovernorError
    ├── ConfigurationError       a setting or an environment that cannot work
    │   └── DeclarationError     a limit, upstream or task declared wrongly
    ├── StoreUnavailable         the limiter store did not answer within its time
    │   └── UpstreamStateError   it did, and refuses what is kept there for one upstream
    ├── DatabaseUnavailable      the dead-letter database did not answer
    │   └── RowRefused           it did, and refuses this row
    ├── SpillFailed              a death could be kept neither in the database nor on disk
    ├── Throttled                the upstream said "not now": the call did not happen
    │   └── NotAdmitted          our own limits said it: the upstream was not asked
    ├── BodyDied                 a body raised what would have taken the worker down
    ├── Overloaded               too many tasks wait: this one was not published
    ├── Unroutable               the broker has no queue for a message
    ├── NothingMatched           nothing has the name that a person gave
    │   └── UnknownDeadLetter    no dead letter has this id
    ├── Changed                  the dead letter is not as it was read
    ├── ReplayRefused            policy forbids this replay
    └── UnreadableMessage        the message of a parked task cannot be read

Each class's docstring is its default message.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from click import ClickException


class GovernorError(Exception):
    """The governor failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])


class ConfigurationError(GovernorError, ClickException):
    """A governor setting cannot work.

    A command that it ends, be it ``celery worker``, says its sentence and ends with 1.
    """


class DeclarationError(ConfigurationError, ValueError):
    """A limit, upstream or task is declared wrongly."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        self.field = field
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{field}: {problem}. {remedy}")

    def __reduce__(self) -> tuple[type[DeclarationError], tuple[str, str, str]]:
        return type(self), (self.field, self.problem, self.remedy)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Name the word that was meant, or all there are."""
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), lower, n=1)
    return f"Did you mean {lower[close[0]]}?" if close else f"Known: {', '.join(names)}"


class StoreUnavailable(GovernorError):
    """The limiter store did not answer within its time budget."""


class UpstreamStateError(StoreUnavailable):
    """The limiter store holds data of an upstream that cannot be used.

    For this upstream the store is away, and what the upstream declares for that (``store_down``)
    holds; other upstreams go on.

    Attributes:
        upstream: its name.
        problem, remedy: what is wrong, and what a person does about it.
        key: the Redis key that is wrong; ``""`` where none is.
        part: the bucket or the claim that alone is concerned; ``""`` is the whole upstream.
    """

    def __init__(
        self, upstream: str, problem: str, remedy: str = "", *, key: str = "", part: str = ""
    ) -> None:
        where = f"{key}: " if key else ""
        super().__init__(
            f"The limiter store's data of upstream {upstream} cannot be used: "
            f"{where}{problem}." + (f" {remedy}." if remedy else "")
        )
        self.upstream = upstream
        self.problem = problem
        self.remedy = remedy
        self.key = key
        self.part = part

    def __reduce__(self) -> tuple[object, ...]:
        given = (self.upstream, self.problem, self.remedy, self.key, self.part)
        return _rebuild_upstream_state, given


def _rebuild_upstream_state(
    upstream: str, problem: str, remedy: str, key: str, part: str
) -> UpstreamStateError:
    return UpstreamStateError(upstream, problem, remedy, key=key, part=part)


class DatabaseUnavailable(GovernorError):
    """The dead-letter database did not answer within its time budget."""


class RowRefused(DatabaseUnavailable):
    """The database is there and refuses this row: trying again will not help."""


class SpillFailed(GovernorError):
    """The death could not be kept on disk either."""


class Throttled(GovernorError):
    """The upstream said not now: the call did not happen.

    Raise it from a task body (or let an ``httpx``/``requests`` 429 or 503 response be
    recognised as one). The whole fleet stops calling the upstream until
    ``retry_after`` has passed; the task waits and spends no retry. Allowed for every
    task, idempotent or not, because nothing happened yet.

    Outside a worker it tells the caller how long to wait.

    Attributes:
        retry_after: seconds until the upstream may be called again; ``None`` when the
            upstream did not say, in which case the governor backs off by itself.
        upstream: the upstream's name, when known.
        limit: the name of the limit that is exhausted, when known.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: float | None = None,
        upstream: str | None = None,
        limit: str | None = None,
    ) -> None:
        if retry_after is not None and not 0 <= retry_after < 10 * 365 * 86_400:
            raise DeclarationError(
                "retry_after", f"{retry_after!r} is not a wait", "Give seconds from now, 0 or more"
            )
        self.message = message
        self.retry_after = retry_after
        self.upstream = upstream
        self.limit = limit
        if message is None:
            when = "later" if retry_after is None else f"in {retry_after:g} s"
            who = f"Upstream {upstream!r}" if upstream else "The upstream"
            message = f"{who} cannot be called now; try {when}"
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        rest = (self.message, self.retry_after, self.upstream, self.limit)
        return _rebuild_throttled, (type(self), *rest)


class NotAdmitted(Throttled):
    """Our own limits said not now: the call was not made, and the upstream need not be paused.

    A call inside a task, or outside a worker, raises it when its slot is further away than it
    may wait. A governed task that lets it pass waits for ``retry_after`` and is started again,
    if that can make no call twice.
    """


def _rebuild_throttled(
    kind: type[Throttled],
    message: str | None,
    retry_after: float | None,
    upstream: str | None,
    limit: str | None,
) -> Throttled:
    return kind(message, retry_after=retry_after, upstream=upstream, limit=limit)


class BodyDied(GovernorError):
    """The body raised what would have taken the worker down with it.

    Attributes:
        kind: name of the exception's class, like ``MemoryError`` or ``SystemExit``.
    """

    def __init__(self, kind: str, message: str = "") -> None:
        self.kind = kind
        self.detail = message
        super().__init__(f"{kind}: {message}" if message else kind)

    def __reduce__(self) -> tuple[type[BodyDied], tuple[str, str]]:
        return type(self), (self.kind, self.detail)


class Overloaded(GovernorError):
    """Too many tasks wait for the upstream: this one was not published.

    Attributes:
        upstream: its name.
        waiting: tasks that are parked.
        drain: seconds until they have been released, as fast as the latest were; ``None`` when none
            was released lately.
        limit: which bound is exceeded, ``"max_waiting"`` or ``"max_wait"``.
    """

    def __init__(self, upstream: str, waiting: int, drain: float | None, limit: str) -> None:
        takes = "nobody knows how long" if drain is None else f"{drain:.0f} s"
        super().__init__(
            f"{waiting} tasks wait for {upstream}, which takes {takes}: beyond its {limit}. "
            "Publish later, or raise it"
        )
        self.upstream = upstream
        self.waiting = waiting
        self.drain = drain
        self.limit = limit

    def __reduce__(self) -> tuple[type[Overloaded], tuple[str, int, float | None, str]]:
        return type(self), (self.upstream, self.waiting, self.drain, self.limit)


class Unroutable(GovernorError):
    """The broker has no queue for the message: it was not sent."""


class NothingMatched(GovernorError):
    """There is nothing of this name, or nothing to undo."""


class UnknownDeadLetter(NothingMatched):
    """There is no dead letter with this id."""


class Changed(GovernorError):
    """The dead letter changed since it was read."""


class ReplayRefused(GovernorError):
    """Policy forbids replaying this dead letter."""


class UnreadableMessage(GovernorError):
    """The message of a parked task cannot be read."""
