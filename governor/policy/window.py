"""The sliding window: never more than so many calls in any span of time.

The state is a log of the latest calls. A call of cost ``c`` fits once so many of them have left
the window that ``c`` more are within the limit; that instant is the slot. Nobody overtakes: a
slot never lies before the latest one handed out, because a call squeezed in before it would be
one too many in the window that ends there.

The log is exact up to :data:`EXACT` calls. Beyond it, entries stand for groups of calls and
carry the time of their latest one, so that a group leaves the window as a whole and late: never
more calls than declared, and at most one group (a thousandth) fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

EXACT = 1_000
"""Entries a log holds at the most."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a window of ``most`` calls is kept.

    Attributes:
        entries: groups the log holds.
        group: calls in each.
    """

    entries: int
    group: int

    @classmethod
    def of(cls, most: int) -> Shape:
        """The finest log that stays within :data:`EXACT` entries."""
        group = -(-most // EXACT)
        return cls(most // group, group)


@dataclass(frozen=True, slots=True)
class Log:
    """The latest calls, oldest first.

    Attributes:
        times: of each group's latest call; future ones are slots that are sure to be used.
        open: calls in the last group when it is not full, else 0.
        line: the instant up to which slots are promised to those who wait elsewhere.
    """

    times: tuple[int, ...] = ()
    open: int = 0
    line: int = 0


def earliest(  # noqa: PLR0917 - the state, the time, and the limit's numbers
    log: Log, start: int, cost: int, shape: Shape, span: int, since: int
) -> int:
    """The first instant, not before ``start``, at which a call of ``cost`` fits.

    Args:
        since: when the store first saw the upstream. Calls made before are unknown, so until a
            whole span later calls are spaced evenly: no burst after a loss of state.
    """
    at = max(start, log.times[-1]) if log.times else start
    room = shape.group - log.open if log.open else 0
    groups = -(-max(cost - room, 0) // shape.group)
    oldest = len(log.times) - shape.entries + groups - 1
    if groups and oldest >= 0:
        at = max(at, log.times[oldest] + span)
    if start < since + span:
        latest = log.times[-1] if log.times else since
        at = max(at, latest + apart(cost, shape, span))
    return at


def push(log: Log, at: int, cost: int, shape: Shape) -> Log:
    """The log after a call of ``cost`` at ``at``, without what no decision can need any more."""
    times = list(log.times)
    filled = log.open
    while cost > 0:
        if filled:
            times[-1] = at
        else:
            times.append(at)
        taken = min(cost, shape.group - filled)
        cost -= taken
        filled = (filled + taken) % shape.group
    return Log(tuple(times[-shape.entries :]), filled, log.line)


def pop(log: Log, cost: int, shape: Shape) -> Log:
    """The log without its latest ``cost`` calls: those that were given back."""
    times, filled = list(log.times), log.open
    while cost > 0 and times:
        taken = min(cost, filled or shape.group)
        filled = (filled or shape.group) - taken
        cost -= taken
        if filled == 0:
            times.pop()
    return Log(tuple(times), filled, log.line)


def apart(cost: int, shape: Shape, span: int) -> int:
    """Microseconds between calls of ``cost`` that are spaced evenly, rounded up."""
    return -(-span * cost // (shape.entries * shape.group))


def used(log: Log, now: int, shape: Shape, span: int) -> int:
    """Calls that a window ending at ``now`` or later still counts."""
    alive = sum(time + span > now for time in log.times)
    return alive * shape.group - ((shape.group - log.open) if log.open and alive else 0)
