"""The log of events: one line for each that people look for, as text or as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Literal

from governor.clock import as_datetime, seconds
from governor.events import (
    Event,
    StoreAnswered,
    TaskEvent,
    TaskStarted,
    TaskSucceeded,
)
from governor.log_lines import ONE_LINE, SafeLogger

Form = Literal["text", "json"]

_UNLOGGED = frozenset({StoreAnswered, TaskStarted, TaskSucceeded})
"""Measurements, and what Celery logs itself."""

_INSTANTS = frozenset({"at", "until"})
_DURATIONS = frozenset({"waited", "wait", "took", "late", "away"})
_NAMED = frozenset({"task_id", "task", "at"})
"""Fields that a line of text begins with, or whose place is the log's own time."""

EVENTS = SafeLogger(logging.getLogger("governor.events"))
"""The logger of events. A handler of its own may write them elsewhere."""

_WARNINGS = frozenset({
    "dead", "refused", "claim_lost", "lease_expired", "store_away", "state_lost",
    "transition_refused",
})  # fmt: skip


class EventLog:
    """A listener that writes lines.

    Args:
        redact: hides secrets in a text.
    """

    def __init__(self, form: Form, redact: Callable[[str], str]) -> None:
        self._line = _text if form == "text" else _json
        self._redact = redact
        EVENTS.logger.addFilter(ONE_LINE)

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it is one that people look for."""
        if type(event) not in _UNLOGGED:
            level = logging.WARNING if event.kind in _WARNINGS else logging.INFO
            if EVENTS.isEnabledFor(level):
                EVENTS.log(level, "%s", self._line(event, dict(self._shown(event))))

    def _shown(self, event: Event) -> Iterator[tuple[str, Any]]:
        """Name what the event says: seconds, instants as ISO 8601, texts without secrets."""
        for field in fields(event):
            value = getattr(event, field.name)
            if field.name in _INSTANTS:
                if not value:
                    continue
                yield field.name, as_datetime(value).isoformat(timespec="milliseconds")
            elif field.name in _DURATIONS:
                yield field.name, round(seconds(value), 6)
            elif isinstance(value, str):
                yield field.name, self._redact(value)
            else:
                yield field.name, value


def _text(event: Event, shown: dict[str, Any]) -> str:
    about = f"Task {shown['task']}[{shown['task_id']}] " if isinstance(event, TaskEvent) else ""
    numbers = " ".join(
        f"{name}={value}" for name, value in shown.items() if name not in _NAMED and value != ""
    )
    return f"{about}{event.kind}: {numbers}"


def _json(event: Event, shown: dict[str, Any]) -> str:
    return json.dumps({"event": event.kind, **shown})
