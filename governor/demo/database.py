"""The database of the demo's dead letters, which stays until the next run."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = "dead-letters.sqlite"


@contextmanager
def default_database() -> Iterator[str]:
    """URL of an empty SQLite database in the user's cache folder; the file stays.

    Replaces the last run's. A run that is still going keeps its own: this one then gets a
    folder of its own, and so it does where the cache folder cannot be written.
    """
    folder = _cache_folder()
    if folder is None:
        yield _url(Path(tempfile.mkdtemp(prefix="governor-demo-")))
        return
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _url(Path(tempfile.mkdtemp(prefix="governor-demo-")))
            return
        for suffix in ("", "-wal", "-shm", "-journal"):
            (folder / f"{_NAME}{suffix}").unlink(missing_ok=True)
        yield _url(folder)


def _cache_folder() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "celery-governor" / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / _NAME}"
