"""The order of tasks of one lane that have slots here and come too late for them."""

from __future__ import annotations

from collections.abc import Sequence

from governor.execution.admission import Call


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
