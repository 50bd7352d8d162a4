"""The order of tasks of one lane that have slots in this worker, also when they come too late for
them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count

from governor.execution.admission import Call
from governor.worker.request import GovernedRequest
from governor.worker.waiting import WaitingRoom


class LaneOrder:
    """Who had a slot here and has not begun: a place in the order for each, whether its slot is
    ahead of it or it wants a place in the pool.

    Attributes:
        due: those that want a place. In a lane, who had its slot first comes first; slots of
            different lanes go as they come.
    """

    def __init__(self, room: WaitingRoom) -> None:
        self.due: deque[GovernedRequest] = deque()
        self._room = room
        self._numbers = count()

    def number(self, request: GovernedRequest) -> None:
        """It has a slot in its lane, after all that have one here."""
        if request.number is None and request.lane is not None:
            request.number = next(self._numbers)

    def add(self, request: GovernedRequest) -> None:
        """It is due."""
        at = len(self.due)
        if request.number is not None:
            later = (place for place, one in enumerate(self.due) if _later(one, request))
            at = next(later, at)
        self.due.insert(at, request)

    def behind(self, request: GovernedRequest) -> list[GovernedRequest]:
        """Those of its lane that got their slots after it, in that order."""
        call = request.call
        assert call is not None
        where = call.upstream, call.lane
        found = [
            other for other in (*self.due, *self._room.requests())
            if _later(other, request) and (other.call.upstream, other.call.lane) == where
        ]  # fmt: skip
        return sorted(found, key=lambda other: other.number or 0)

    def withdraw(self, request: GovernedRequest) -> None:
        """It waits for no place and no instant any more."""
        if request in self.due:
            self.due.remove(request)
        else:
            self._room.take(lambda other: other is request, 1)


def _later(other: GovernedRequest, request: GovernedRequest) -> bool:
    """Whether it got its slot after ``request``."""
    assert request.number is not None
    return other.number is not None and other.number > request.number


def usable(call: Call, oldest: int) -> bool:
    """Whether it is charged for a slot that is still good.

    Args:
        oldest: slots from then on, in monotonic microseconds, are.
    """
    return bool(call.header.reserved) and call.slot is not None and call.slot >= oldest


def move_up(late: Call, behind: Sequence[Call], oldest: int) -> Call | None:
    """Give a call that is late the slot of the next one of its lane, that one the slot of the one
    after it, and so on: they keep their order, and only the last has none.

    Args:
        behind: calls of its lane that got their slots after it and have not begun, in that order.
        oldest: slots from then on, in monotonic microseconds, are still good.

    Returns:
        The last one, which must go back before anybody else of its lane is released; ``None`` if
        ``late`` has got no slot. Those in a concurrency limit hold their places by name and do not
        exchange them.
    """
    others = [call for call in behind if call.charges == late.charges and usable(call, oldest)]
    if not others or late.places:
        return None
    slots = sorted((call.slot or 0, call.header.reserved) for call in others)
    for call, (slot, reserved) in zip([late, *others], slots, strict=False):
        call.slot, call.header.reserved = slot, reserved
    late.settled = late.claim is None
    last = others[-1]
    last.settled, last.header.reserved = False, ()
    return last
