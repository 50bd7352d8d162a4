"""The order of released tasks of one lane that come too late for their slots."""

from __future__ import annotations

from collections.abc import Iterable

from governor.execution.admission import Call


def move_up(late: Call, released: Iterable[Call], oldest: int) -> bool:
    """Give a call that was released and is late the slot of the next one of its lane, that one the
    slot of the one after it, and so on: they keep their order, and only the last asks again.

    Args:
        released: calls that were released to this worker and have not begun.
        oldest: slots from then on, in monotonic microseconds, are still good.

    Returns:
        Whether ``late`` has a slot now. Those in a concurrency limit hold their places by name and
        do not exchange them.
    """
    others = [
        call
        for call in released
        if call is not late
        and (call.lane, call.charges) == (late.lane, late.charges)
        and call.settled
        and call.slot is not None
        and call.slot >= oldest
    ]
    if not others or late.places:
        return False
    others.sort(key=lambda call: call.slot or 0)
    slots = [call.slot for call in others]
    for call, slot in zip([late, *others], slots, strict=False):
        call.slot = slot
    late.settled = True
    last = others[-1]
    last.settled = False
    last.header.reserved = ()
    return True
