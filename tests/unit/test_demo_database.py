"""Where the demo's dead letters stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from governor.demo.database import default_database


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def test_the_file_stays_until_the_next_run() -> None:
    """What a run wrote is there after it, and gone once the next begins, at the same place."""
    with default_database() as first:
        path_of(first).write_text("rows")
    assert path_of(first).read_text() == "rows"
    with default_database() as second:
        assert second == first
        assert not path_of(second).exists()


def test_two_runs_at_once_have_two_databases() -> None:
    """A run that is still going keeps its own."""
    with default_database() as first:
        path_of(first).write_text("rows")
        with default_database() as second:
            assert second != first
        assert path_of(first).read_text() == "rows"


def test_a_cache_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no place for a cache the temporary folder serves."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with default_database() as url:
        assert path_of(url).is_relative_to(tmp_path / "tmp")
