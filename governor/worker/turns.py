"""The order of released tasks of one lane that come too late for their slots."""

from __future__ import annotations

from collections.abc import Iterable

from governor.execution.admission import Call


def move_up(late: Call, released: Iterable[Call], oldest: int) -> Call | None:
    """Give a call that was released and is late the slot of the next one of its lane, that one the
    slot of the one after it, and so on: they keep their order, and only the last has none.

    Args:
        released: calls that were released to this worker and have not begun.
        oldest: slots from then on, in monotonic microseconds, are still good.

    Returns:
        The last one, which must go back before anybody else of its lane is released; ``None`` if
        ``late`` has got no slot. Those in a concurrency limit hold their places by name and do not
        exchange them.
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
        return None
    others.sort(key=lambda call: call.slot or 0)
    slots = [call.slot for call in others]
    for call, slot in zip([late, *others], slots, strict=False):
        call.slot = slot
    late.settled = True
    last = others[-1]
    last.settled = False
    return last
