"""A row that the database refuses is no outage of the database."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from governor.deadletter.errors import RowRefused
from governor.deadletter.spill import Backlog, Spill
from governor.errors import DatabaseUnavailable
from governor.testing.clock import FakeClock
from governor.worker.funeral import Funeral
from tests.deaths import death


@pytest.mark.parametrize(
    ("error", "asked", "backlog"),
    [(RowRefused("no acme"), 2, Backlog(0, 2, 0)), (DatabaseUnavailable(), 1, Backlog(2, 0, 0))],
)
def test_a_refused_row_is_set_aside_and_the_next_is_written(
    error: Exception, asked: int, backlog: Backlog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a refusal the database is asked again at once, after an outage later; the log names the
    file."""
    caplog.set_level(logging.ERROR, "governor")
    spill = Spill(tmp_path, redact=str)
    governor: Any = Mock(clock=FakeClock(0), spill=spill)
    governor.dead_letters.record.side_effect = error
    funeral = Funeral(governor, Mock(), Mock())
    for task_id in ("a", "b"):
        funeral._record(lambda task_id=task_id: death(task_id))  # type: ignore[misc]
    assert governor.dead_letters.record.call_count == asked
    assert spill.backlog() == backlog
    if backlog.refused:
        assert all(str(tmp_path) in said and "no acme" in said for said in caplog.messages)
