"""How fast a parking lot releases its tasks."""

from __future__ import annotations

from governor.clock import SECOND
from governor.policy.release_pace import paced, rate_of

# at which second, how many are released; then: tasks counted, within how many seconds
RELEASED = [
    # the first five: within the microsecond that has passed at least
    (100, 5, 5, 0.000001),
    # one second on
    (101, 5, 10, 1),
    # ten seconds on a new count begins; the one before it is kept
    (110, 3, 13, 10),
    (115, 1, 14, 15),
    # the count before the last is forgotten
    (120, 1, 5, 10),
    # after twenty seconds everything is, and after a silence
    (140, 4, 4, 0.000001),
    (200, 2, 2, 0.000001),
]


def test_tasks_released_lately() -> None:
    """Releases are counted over the latest ten to twenty seconds."""
    pace = (0, 0, 0)
    for second, number, counted, within in RELEASED:
        pace = paced(pace, number, second * SECOND)
        assert rate_of(*pace, second * SECOND) == (counted, int(within * SECOND) or 1), second


def test_a_lot_that_has_stopped() -> None:
    """Half a minute after the last release nothing is released lately."""
    pace = paced((0, 0, 0), 5, 100 * SECOND)
    assert rate_of(*pace, 129 * SECOND) == (5, 29 * SECOND)
    assert rate_of(*pace, 130 * SECOND) == (0, 10 * SECOND)
