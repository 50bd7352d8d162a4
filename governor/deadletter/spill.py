"""Deaths kept on disk while the database is away, and brought home afterwards.

One file for each death, named by what makes the death unique: spilling it twice leaves one
file, and draining a file twice leaves one row. A file is complete when it has its name, and
it is on the disk, folder entry included, when :meth:`Spill.append` returns.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from governor.deadletter.encoding import decode_mapping, encode
from governor.deadletter.rows import message_id_of, message_sha256
from governor.deadletter.texts import TRACEBACK_LIMIT, Redact, Texts
from governor.errors import DatabaseUnavailable, RowRefused, SpillFailed
from governor.ports import DeadLetters, Death, MessageCopy, Reason

SPILL_SCHEMA = 1
MAX_SPILL_BYTES = 1024**3
_RECOUNT_EVERY = 256
_SUFFIX, _REFUSED, _BROKEN = ".death", ".refused", ".broken"


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of a drain.

    Attributes:
        recorded: deaths that are rows now (some may have been before).
        refused: files whose row the database refuses, named ``….refused`` now.
        broken: files that could not be read, named ``….broken`` now.
        said: for each of those its path and why.
    """

    recorded: int
    refused: int
    broken: int
    said: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Count of the deaths on disk.

    Attributes:
        pending: deaths that wait to be drained.
        refused, broken: as in :class:`Drained`.
    """

    pending: int
    refused: int
    broken: int


class Spill:
    """A folder of deaths that wait for the database.

    Args:
        directory: made when first needed, readable by its owner only: messages are exact.
        redact: applied to every text before it is written.
        max_bytes: of the whole folder. Other processes' files are counted once in a while,
            so many writers may go over by what they write in between.
    """

    def __init__(
        self, directory: str | Path, *, redact: Redact, max_bytes: int = MAX_SPILL_BYTES
    ) -> None:
        self._directory = Path(directory)
        self._redact = redact
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._until_recount = 0

    def append(self, death: Death) -> Path:
        """Keep ``death``; when this returns it survives a crash of the machine.

        Raises:
            SpillFailed: the folder is full or cannot be written; nothing was kept.
        """
        return self._keep(death, _SUFFIX)

    def set_aside(self, death: Death) -> Path:
        """As :meth:`append`, for a death whose row the database refuses: it is drained only when a
        person says so.

        Raises:
            SpillFailed: as there.
        """
        return self._keep(death, _REFUSED)

    def _keep(self, death: Death, suffix: str) -> Path:
        content = _write(death, self._redact)
        final = self._directory / f"{_key(death)}{suffix}"
        try:
            with self._lock:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if final.exists():
                    return final
                self._make_room(len(content))
                _write_durably(final, content)
                self._bytes += len(content)
        except OSError as error:
            raise SpillFailed(
                f"spill_dir: {self._directory}: {error.strerror or error}. "
                "Make it a writable folder on a disk with room"
            ) from error
        return final

    def pending(self) -> int:
        """Deaths waiting to be drained."""
        return len(self._files(_SUFFIX))

    def backlog(self) -> Backlog:
        """Count what is on disk.

        Raises:
            OSError: the folder is there and cannot be read.
        """
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            names = []
        suffixes = Counter(Path(name).suffix for name in names)
        return Backlog(*(suffixes[each] for each in (_SUFFIX, _REFUSED, _BROKEN)))

    def drain(self, dead_letters: DeadLetters, *, again: bool = False) -> Drained:
        """Write every spilled death to the database, the oldest first, and drop its file only after
        that. A file that cannot become a row is set aside, and holds up no other.

        Args:
            again: try those that were refused before, too.

        Raises:
            DatabaseUnavailable: it went away again; what is not drained is still there.
        """
        recorded = refused = broken = 0
        said: list[str] = []
        for path in [*self._files(_SUFFIX), *(self._files(_REFUSED) if again else ())]:
            try:
                dead_letters.record(_read(path.read_bytes()))
            except FileNotFoundError:
                continue  # another drain was faster
            except RowRefused as error:
                refused += 1
                said.append(_set_aside(path, _REFUSED, error))
            except DatabaseUnavailable:
                # It may be this row's fault all the same, as one that takes too long: the others go
                # first the next time.
                with suppress(FileNotFoundError):
                    os.utime(path)
                raise
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                broken += 1
                said.append(_set_aside(path, _BROKEN, error))
            else:
                path.unlink(missing_ok=True)
                recorded += 1
        with self._lock:
            self._until_recount = 0
        return Drained(recorded, refused, broken, tuple(said))

    def _files(self, suffix: str) -> list[Path]:
        found = []
        for path in self._directory.glob(f"*{suffix}"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _make_room(self, size: int) -> None:
        if self._until_recount <= 0 or self._bytes + size > self._max_bytes:
            with os.scandir(self._directory) as entries:
                self._bytes = sum(entry.stat().st_size for entry in entries)
            self._until_recount = _RECOUNT_EVERY
        self._until_recount -= 1
        if self._bytes + size > self._max_bytes:
            raise SpillFailed(
                f"spill_dir: {self._directory} holds {self._bytes} bytes and may hold "
                f"{self._max_bytes}. Bring the database back and run `governor dead drain-spill`"
            )


def drain(directory: str | Path, dead_letters: DeadLetters) -> Drained:
    """Drain a folder without writing to it; see :meth:`Spill.drain`.

    Raises:
        DatabaseUnavailable: as there.
    """
    return Spill(directory, redact=lambda text: text).drain(dead_letters)


def _set_aside(path: Path, suffix: str, error: Exception) -> str:
    aside = path.with_suffix(suffix)
    with suppress(FileNotFoundError):
        path.rename(aside)
    why = str(error) if isinstance(error, RowRefused) else type(error).__name__
    return f"{aside}: {why}"


def _key(death: Death) -> str:
    unique = (
        f"task:{death.task_id}:{death.delivery}:{message_id_of(death)}"
        if death.task_id is not None
        else f"message:{message_sha256(death)}"
    )
    return hashlib.sha256(unique.encode("utf-8", "backslashreplace")).hexdigest()[:40]


def _write_durably(final: Path, content: bytes) -> None:
    unfinished = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(final)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_MESSAGE_FIELDS = ("headers", "properties", "exchange", "routing_key", "queue")


def _write(death: Death, redact: Redact) -> bytes:
    """One line of everything but the body, then the body's bytes as they are."""
    texts = Texts(redact)
    clean = replace(
        death,
        exc_message=texts.redacted("exc_message", death.exc_message, TRACEBACK_LIMIT),
        traceback=texts.redacted("traceback", death.traceback, TRACEBACK_LIMIT),
        args_redacted=texts.redacted("args_redacted", death.args_redacted, TRACEBACK_LIMIT),
        attempt_log=tuple(json.loads(texts.attempts(death.attempt_log))),
    )
    known: dict[str, Any] = {
        field.name: getattr(clean, field.name) for field in fields(Death) if field.name != "message"
    }
    known["reason"] = death.reason.value
    known["message"] = {field: getattr(death.message, field) for field in _MESSAGE_FIELDS}
    known["spill_schema"] = SPILL_SCHEMA
    known["body_sha256"] = hashlib.sha256(death.message.body).hexdigest()
    return encode(known).text.encode("ascii") + b"\n" + death.message.body


def _read(content: bytes) -> Death:
    line, newline, body = content.partition(b"\n")
    known = decode_mapping(line.decode("ascii"))
    if not newline or known.pop("spill_schema") != SPILL_SCHEMA:
        raise ValueError("not a spilled death of this schema")
    if known.pop("body_sha256") != hashlib.sha256(body).hexdigest():
        raise ValueError("the body is damaged")
    message = MessageCopy(body=body, **known.pop("message"))
    return Death(**{**known, "message": message, "reason": Reason(known["reason"])})
