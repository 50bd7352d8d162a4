"""Texts made fit to be stored: redacted, cut to size with a note, and free of what a
database refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from governor.deadletter.models import NAME_LENGTH

Redact = Callable[[str], str]

MESSAGE_LIMIT = 4_000
TRACEBACK_LIMIT = 60_000
_REDACT_LIMIT = 1_000_000  # redaction reads no more than this of one text
_FIRST_ATTEMPTS, _LAST_ATTEMPTS = 1, 50
_ENTRY_LIMIT = 500
_ENTRY_FIELDS = 20


class Texts:
    """The texts of one row, and a record of what was cut.

    Attributes:
        notes: what was cut, in words, for the row's ``truncated`` column.
    """

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self.notes: list[str] = []

    def redacted(self, field: str, value: object, limit: int = MESSAGE_LIMIT) -> str | None:
        """``value`` redacted, at most ``limit`` characters: its beginning and its end."""
        if value is None:
            return None
        raw = said(value)
        head = raw[:_REDACT_LIMIT]
        try:
            clean = storable(self._redact(head))
        except Exception as error:  # noqa: BLE001 - a broken redactor must not lose the row
            self.notes.append(f"{field}: left out, redaction raised {type(error).__name__}")
            return None
        if len(raw) == len(head) and len(clean) <= limit:
            return clean
        self.notes.append(f"{field}: {len(raw)} characters cut to {limit}")
        if len(raw) > len(head):
            # The cut may have gone through a secret and hidden it from redaction: nothing
            # near it is kept.
            return clean[: min(limit, _REDACT_LIMIT // 2)]
        marker = "\n… cut …\n"
        half = (limit - len(marker)) // 2
        return clean[:half] + marker + clean[-half:]

    def attempts(self, log: Sequence[Mapping[str, object]]) -> str:
        """The attempt log as JSON: the first attempt and the last fifty."""
        kept = list(log)
        if len(kept) > _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
            self.notes.append(f"attempt_log: {len(kept)} attempts, first and last 50 kept")
            kept = kept[:_FIRST_ATTEMPTS] + kept[-_LAST_ATTEMPTS:]
        return json.dumps(
            [
                {
                    name(key): self._plain(entry[key])
                    for index, key in enumerate(entry)
                    if index < _ENTRY_FIELDS
                }
                for entry in kept
            ]
        )

    def _plain(self, value: object) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < 2**63:
            return int(value)
        if isinstance(value, float) and value - value == 0:
            return float(value)
        return self.redacted("attempt_log", value, _ENTRY_LIMIT)


def storable(text: str) -> str:
    """``text`` without NUL and lone surrogates, which PostgreSQL does not store."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def name(value: object, length: int = NAME_LENGTH) -> str:
    """An identifier of at most ``length`` characters; a longer one ends in a hash of the whole."""
    text = storable(said(value))
    if len(text) <= length:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[: min(16, length // 2)]
    return f"{text[: length - len(digest) - 1]}…{digest}"


def optional_name(value: object) -> str | None:
    """As :func:`name`; nothing stays nothing."""
    return None if value is None else name(value)


def whole(value: object) -> int:
    """An integer that fits a BIGINT; what is not an integer counts as 0."""
    if not isinstance(value, int):
        return 0
    return max(-(2**63), min(int(value), 2**63 - 1))


def said(value: object) -> str:
    """``value`` as text, whatever it is."""
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return repr(value)
    except BaseException as error:  # noqa: BLE001 - the value's own code may raise anything
        return f"<{type(value).__name__}, its repr raised {type(error).__name__}>"
