"""A row that the database refuses is no outage of the database, and a death whose content cannot be
told or written is written with what can be kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from kombu.message import Message

from governor.clock import SECOND
from governor.deadletter.encoding import Lost
from governor.deadletter.rows import message_id_of
from governor.deadletter.spill import Backlog, Spill
from governor.errors import DatabaseUnavailable, RowRefused, SpillFailed
from governor.ports import Death, Reason
from governor.testing.clock import FakeClock
from governor.worker import dead_letter_writer as writer_module
from governor.worker import death_facts as facts_module
from governor.worker.dead_letter_writer import DeadLetterWriter
from governor.worker.salvage import reduced
from governor.worker.serial_executor import SerialExecutor
from tests.deaths import death, message
from tests.unit.simulated_worker import Loop, LoopExecutor

HOUR = 3600 * SECOND


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
    dead_letter_writer = DeadLetterWriter(governor, Mock())
    for task_id in ("a", "b"):
        dead_letter_writer._record(lambda task_id=task_id: death(task_id))  # type: ignore[misc]
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


NO_TEXT = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")


class AtOnce:
    """A loop that runs what another thread brings where it is brought."""

    def soon(self, work: Callable[[], None]) -> None:
        work()

    def at(self, _moment: int, _work: Callable[[], None]) -> None:
        """Nothing is due in a test."""


@pytest.mark.parametrize(
    ("database", "disk", "kept"),
    [
        ([NO_TEXT, "id"], [], "database"),
        ([DatabaseUnavailable()], [NO_TEXT, "path"], "append"),
        ([RowRefused()], [NO_TEXT, "path"], "set_aside"),
        ([NO_TEXT, DatabaseUnavailable()], ["path"], "append"),
        ([NO_TEXT, RowRefused()], ["path"], "set_aside"),
    ],
)
def test_content_that_cannot_be_written_is_left_out(
    database: list[Any], disk: list[Any], kept: str
) -> None:
    """A death that neither the database nor the disk can take because of its own content is written
    once, with its body, and what is left out of its headers is marked."""
    governor: Any = Mock(clock=FakeClock(0))
    governor.dead_letters.record.side_effect = database
    for keep in (governor.spill.append, governor.spill.set_aside):
        keep.side_effect = disk
    dead_letter_writer = DeadLetterWriter(governor, Mock())
    bad = death("\ud800", message=message("x", headers={"odd": "\ud800"}), exc_message="\ud800")
    dead_letter_writer._record(lambda: bad)
    take = {
        "database": governor.dead_letters.record,
        "append": governor.spill.append,
        "set_aside": governor.spill.set_aside,
    }[kept]
    written: Death = take.call_args.args[0]
    assert written.message.body == bad.message.body
    if len(disk) != 1:
        assert written.message.headers["odd"] == Lost("str")
        assert written.message.headers["retries"] == 3
        assert written.task_id == r"\ud800"
        assert (
            written.exc_message == "its texts were left out: writing them raised UnicodeEncodeError"
        )


def test_facts_that_cannot_be_told_cost_no_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the code of an exception ends what reads it, the death is written without its facts, and
    later ones are written as usual."""
    written: list[Death] = []
    governor: Any = Mock(clock=FakeClock(0))
    governor.dead_letters.record.side_effect = written.append
    dead_letter_writer = DeadLetterWriter(governor, AtOnce())
    facts = Mock(side_effect=[KeyboardInterrupt, facts_module.exception_facts(None, None, None)])
    monkeypatch.setattr(facts_module, "exception_facts", facts)
    ended = threading.Semaphore(0)
    for task_id in ("a", "b"):
        found = Message(b"[]", headers={"id": task_id, "task": "known"})  # type: ignore[no-untyped-call]
        dead_letter_writer.hold_message(found, Reason.INVALID_MESSAGE, ValueError(), ended.release)
    assert ended.acquire(timeout=30)
    assert ended.acquire(timeout=30)
    assert [each.task_id for each in written] == ["a", "b"]
    assert (
        written[0].exc_message == "nothing else is known of it: telling it raised KeyboardInterrupt"
    )
    assert written[0].message.body == b"[]"


def test_the_writing_thread_outlives_whatever_its_work_raises() -> None:
    """Work that raises what would end a thread is reported, and the next is done."""
    executor = SerialExecutor("test", AtOnce())
    heard: list[str] = []
    over = threading.Event()
    for error in (SystemExit, KeyboardInterrupt, GeneratorExit, ValueError):
        executor.submit(Mock(side_effect=error), lambda exc: heard.append(repr(exc)))
    executor.submit(lambda: None, lambda _: over.set())
    assert over.wait(30)
    assert heard == [
        "RuntimeError('SystemExit')", "RuntimeError('KeyboardInterrupt')",
        "RuntimeError('GeneratorExit')", "ValueError()",
    ]  # fmt: skip


class World:
    """A writer whose jobs are done on the test's loop.

    Attributes:
        then: called when the death is written; raises what it is told to.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "SerialExecutor", LoopExecutor)
        self.clock = FakeClock(0)
        self.loop = Loop(self.clock)
        self.spill = Spill(folder, redact=str)
        self.governor: Any = Mock(clock=self.clock, spill=self.spill)
        self.record = self.governor.dead_letters.record
        self.writer = DeadLetterWriter(self.governor, self.loop)
        self.then = Mock(side_effect=[None])

    def die(self) -> None:
        found = Message(b"[]", headers={"id": "t1", "task": "known"})  # type: ignore[no-untyped-call]
        self.writer.hold_message(found, Reason.INVALID_MESSAGE, ValueError("no"), self.then)

    def calls_after(self, *micros: int) -> list[int]:
        """How often what follows was called, after each of these instants."""
        counts = []
        for moment in micros:
            self.loop.run_for(moment - self.clock.now)
            counts.append(self.then.call_count)
        return counts


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A writer on a loop that the test moves."""
    return World(tmp_path, monkeypatch)


def test_nothing_is_acknowledged_before_it_is_written(world: World) -> None:
    """The step after a death is called once, on the loop, when the row is there."""
    world.record.side_effect = lambda _: world.then.assert_not_called()
    world.die()
    world.then.assert_not_called()
    assert world.calls_after(SECOND) == [1]
    assert world.record.call_count == 1


def test_what_neither_database_nor_disk_takes_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While neither can be written nothing follows the death; it is tried again each five seconds,
    and then the message is let go once."""
    world.record.side_effect = [DatabaseUnavailable(), DatabaseUnavailable(), "id"]
    monkeypatch.setattr(world.spill, "append", Mock(side_effect=SpillFailed("disk is full")))
    world.die()
    assert world.calls_after(9 * SECOND, 11 * SECOND, HOUR) == [0, 1, 1]


def test_a_death_on_disk_is_written_and_brought_to_the_database_later(world: World) -> None:
    """A spilled death lets its message go at once. It is drained when the database is back."""
    world.record.side_effect = [DatabaseUnavailable(), DatabaseUnavailable(), "id"]
    world.die()
    assert world.calls_after(SECOND) == [1]
    assert world.spill.backlog() == Backlog(1, 0, 0)
    world.loop.run_for(30 * SECOND)
    assert world.spill.backlog() == Backlog(0, 0, 0)
    assert world.record.call_count == 3


def test_what_follows_a_death_is_tried_until_it_is_done(world: World) -> None:
    """A row that is written is not written again because its message could not be let go."""
    world.then.side_effect = [OSError, None]
    world.die()
    assert world.calls_after(4 * SECOND, 6 * SECOND, HOUR) == [1, 2, 2]
    assert world.record.call_count == 1


def test_a_replay_that_is_not_resolved_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A success whose dead letter cannot be resolved is a line of the log, and later work is
    done."""
    world.governor.dead_letters.replay_succeeded.side_effect = DatabaseUnavailable
    world.writer.resolve("t1")
    world.die()
    assert world.calls_after(SECOND) == [1]
    assert any("t1" in said and "replayed" in said for said in caplog.messages)
