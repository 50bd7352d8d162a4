"""A row that the database refuses is no outage of the database."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from governor.deadletter.errors import RowRefused
from governor.deadletter.rows import message_id_of
from governor.deadletter.spill import Backlog, Spill
from governor.errors import DatabaseUnavailable
from governor.testing.clock import FakeClock
from governor.worker.funeral import Funeral
from governor.worker.salvage import reduced
from tests.deaths import death, message


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


def test_what_is_kept_of_a_death_is_of_the_same_message() -> None:
    """A death whose headers are left out is still that of its message: another message with the
    same body under the same task id and attempt is another row."""
    deaths = [
        death(message=message(headers={"governor": {"v": 1, "mid": mid}})) for mid in ("m1", "m2")
    ]
    kept = [reduced(each, ValueError()) for each in deaths]
    assert [message_id_of(each) for each in kept] == ["m1", "m2"]
    assert [message_id_of(each) for each in deaths] == ["m1", "m2"]
