"""Deaths kept on disk while the database is away, and brought home exactly once."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.spill import Backlog, Drained, Spill, drain
from governor.errors import DatabaseUnavailable, RowRefused, SpillFailed
from governor.ports import Death, Reason
from tests.deaths import death, message


def hide(text: str) -> str:
    return text.replace("s3cret", "[hidden]")


@pytest.fixture
def spill(tmp_path: Path) -> Spill:
    return Spill(tmp_path / "spill", redact=hide)


@pytest.fixture
def letters(database_url: str) -> Iterator[SqlDeadLetters]:
    engine = bounded_engine(database_url, timeout=20)
    schema.upgrade(engine)
    yield SqlDeadLetters(engine, redact=hide, timeout=20)
    engine.dispose()


def test_what_was_spilled_becomes_the_same_row(spill: Spill, letters: SqlDeadLetters) -> None:
    """A drained death has the row it would have had, but for when it was recorded."""
    exact = message(
        body=b"line\nbreak\xff\x00",
        headers={"b": b"\x00", "t": datetime(2025, 1, 1, tzinfo=UTC), "big": 2**80},
    )
    dead = death(
        "spilled",
        message=exact,
        delivery=3,
        limit_keys=("a", "b"),
        idempotency_key="k",
        http_status=502,
        waited_seconds=1.5,
        attempt_log=[{"n": 1}],
        last_frame=None,
        exc_message="order 17 s3cret",
    )
    spill.append(dead)
    assert spill.drain(letters) == Drained(1, 0, 0)
    (drained,) = letters.list(Filters())
    claimed = letters.claim_replay(drained.id, 1, 5, "me", "why")
    assert claimed.message == exact
    direct = letters.get(letters.record(Death(**{**fields(dead), "task_id": "direct"})))
    different = {"id", "task_id", "recorded_at"}
    for field in type(direct).__dataclass_fields__:
        if field not in different:
            assert getattr(direct, field) == getattr(drained, field), field


def fields(dead: Death) -> dict[str, object]:
    return {field: getattr(dead, field) for field in Death.__dataclass_fields__}


def test_spilled_and_recorded_is_one_row(spill: Spill, letters: SqlDeadLetters) -> None:
    """However often a death is spilled, recorded and drained, it has one row."""
    spill.append(death())
    spill.append(death())
    assert spill.pending() == 1
    row_id = letters.record(death())
    spill.drain(letters)
    spill.append(death())
    spill.drain(letters)
    assert [found.id for found in letters.list(Filters())] == [row_id]
    assert spill.pending() == 0


def test_messages_without_a_task_id_are_spilled_each(spill: Spill, letters: SqlDeadLetters) -> None:
    """Junk is told apart by its content."""
    for body in (b"\xff", b"\xfe", b"\xff"):
        spill.append(death(None, reason=Reason.UNDECODABLE, message=message(body=body)))
    assert spill.drain(letters).recorded == 2
    assert letters.count(Filters()) == 2


def test_the_database_goes_away_again(spill: Spill, letters: SqlDeadLetters) -> None:
    """What could not be drained is still there, and drained the next time."""
    for number in range(3):
        spill.append(death(f"task-{number}"))

    class Flaky(SqlDeadLetters):
        def __init__(self) -> None:
            self.calls = 0

        def record(self, death: Death) -> str:
            self.calls += 1
            if self.calls == 2:
                raise DatabaseUnavailable
            return letters.record(death)

    with pytest.raises(DatabaseUnavailable):
        spill.drain(Flaky())
    assert (letters.count(Filters()), spill.pending()) == (1, 2)
    assert spill.drain(letters).recorded == 2
    assert (letters.count(Filters()), spill.pending()) == (3, 0)


def test_one_bad_row_does_not_hold_up_the_others(spill: Spill, letters: SqlDeadLetters) -> None:
    """A row the database refuses is set aside on disk, and named; the rest is drained. A person
    may have it tried again."""
    for number in range(3):
        spill.append(death(f"task-{number}"))

    class Picky(SqlDeadLetters):
        def __init__(self) -> None:
            pass

        def record(self, death: Death) -> str:
            if death.task_id == "task-1":
                raise RowRefused("no acme")
            return letters.record(death)

    drained = spill.drain(Picky())
    assert drained == Drained(2, 1, 0)
    (line,) = drained.said
    assert line.endswith(".refused: no acme")
    assert spill.backlog() == Backlog(pending=0, refused=1, broken=0)
    assert spill.drain(letters) == Drained(0, 0, 0)
    assert spill.drain(letters, again=True) == Drained(1, 0, 0)
    assert spill.backlog() == Backlog(0, 0, 0)


def test_a_row_that_may_be_at_fault_lets_the_others_go_first(
    spill: Spill, letters: SqlDeadLetters
) -> None:
    """A death at which the database goes away each time, as one that is too large for its timeout,
    is tried last."""
    for number in range(5):
        spill.append(death(f"task-{number}"))

    class Slow(SqlDeadLetters):
        def __init__(self) -> None:
            pass

        def record(self, death: Death) -> str:
            if death.task_id == "task-1":
                raise DatabaseUnavailable
            return letters.record(death)

    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            spill.drain(Slow())
    assert (letters.count(Filters()), spill.pending()) == (4, 1)


@pytest.mark.parametrize("keep", [0, 10, -1], ids=["empty", "half a line", "a byte short"])
def test_a_damaged_file_is_set_aside(spill: Spill, letters: SqlDeadLetters, keep: int) -> None:
    """A file that cannot be read is renamed, never deleted and never a wrong row."""
    damaged = spill.append(death("damaged"))
    spill.append(death("good"))
    damaged.write_bytes(damaged.read_bytes()[:keep])
    assert spill.drain(letters) == Drained(1, 0, 1)
    assert damaged.with_suffix(".broken").exists()
    assert [found.task_id for found in letters.list(Filters())] == ["good"]


def test_files_are_private_and_redacted(spill: Spill) -> None:
    """Only the owner reads the exact message, and no text of the death holds a secret."""
    path = spill.append(
        death(exc_message="s3cret", traceback="s3cret", attempt_log=[{"e": "s3cret"}])
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"s3cret" not in path.read_bytes()


def test_a_full_folder_says_so(tmp_path: Path) -> None:
    """Beyond its limit the spill refuses, names the folder and says what to do."""
    small = Spill(tmp_path, redact=str, max_bytes=5_000)
    kept = 0
    size = small.append(death("task-0")).stat().st_size
    while size * (kept + 2) + 10 < 5_000:
        kept += 1
        small.append(death(f"task-{kept}"))
    with pytest.raises(SpillFailed, match="drain-spill") as caught:
        small.append(death("one too many"))
    assert 1 < kept < 10
    assert str(tmp_path) in str(caught.value)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5_000
    assert small.append(death("task-0"))  # already kept: no room needed


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A path that is no folder is an error that names the field."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpillFailed, match="spill_dir"):
        Spill(tmp_path / "file" / "inside", redact=str).append(death())


def test_a_death_is_whole_or_absent_after_a_kill(tmp_path: Path, database_url: str) -> None:
    """A process killed while it spills leaves whole files only; the last one it confirmed is
    among them."""
    script = (
        "import sys; from governor.deadletter.spill import Spill\n"
        "from tests.deaths import death, message\n"
        f"spill = Spill({str(tmp_path / 'spill')!r}, redact=str)\n"
        "for number in range(100000):\n"
        "    spill.append(death(f'task-{number}', message=message(body=b'x' * 50000)))\n"
        "    print(number, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert writer.stdout is not None
    confirmed = [writer.stdout.readline() for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    confirmed += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    engine = bounded_engine(database_url, timeout=20)
    schema.upgrade(engine)
    letters = SqlDeadLetters(engine, redact=str, timeout=20)
    drained = drain(tmp_path / "spill", letters)
    assert drained.broken == 0
    last = int([line for line in confirmed if line.endswith(b"\n")][-1])
    assert drained.recorded >= last + 1
    assert letters.count(Filters()) == drained.recorded
    engine.dispose()


def test_it_is_on_the_disk_before_append_returns(
    spill: Spill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and folder are both synchronised, the file before it gets its name."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    spill.append(death())
    assert synced == [".tmp", ""]
