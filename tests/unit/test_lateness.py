"""How much lateness of its bodies a worker allows for."""

from __future__ import annotations

import logging

import pytest

from governor.clock import SECOND
from governor.worker.lateness import Lateness

MS = SECOND // 1_000
GRACE = 50 * MS

# when bodies were seen and how long their ways were, when it is asked, what is allowed; in ms
LEARNED = [
    # nothing was late: the grace alone
    ([], 0, 0),
    # half as much again as the way took
    ([(0, 80)], 0, 120),
    # a short way of a body that had waited: as little
    ([(0, 4)], 0, 6),
    # half of that is forgotten in half a minute
    ([(0, 80)], 30_000, 60),
    ([(0, 80)], 29_999, 120),
    ([(0, 80)], 3_600_000, 0),
    # the longest counts
    ([(0, 80), (10, 200)], 10, 300),
    ([(0, 200), (10, 80)], 10, 300),
    # a second at most
    ([(0, 5_000)], 0, 1_000),
]


@pytest.mark.parametrize(("seen", "asked", "allowed"), LEARNED)
def test_what_is_allowed(seen: list[tuple[int, int]], asked: int, allowed: int) -> None:
    """The estimate grows at once and is forgotten slowly, within bounds."""
    lateness = Lateness(GRACE)
    for at, way in seen:
        lateness.saw(60 * MS + way * MS, way * MS, at * MS)
    assert lateness.allowed(asked * MS) == allowed * MS


def test_a_worker_says_once_that_its_starts_are_late(caplog: pytest.LogCaptureFixture) -> None:
    """One warning for each worker, with the figure, the grace and a remedy; people see the rest."""
    lateness = Lateness(GRACE)
    with caplog.at_level(logging.WARNING):
        lateness.saw(80 * MS, 70 * MS, 0)
        lateness.saw(90 * MS, 5 * MS, 1)
    (said,) = caplog.messages
    assert said.startswith("Worker starts are late: 80 ms, grace 50 ms. ")
    assert "task_prerun" in said
    assert lateness.told() == {"grace": GRACE, "starts": 2, "last": 90 * MS}
