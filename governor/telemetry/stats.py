"""Counters of one worker process, kept for tools that watch it, such as the demo.

No claim about lost or doubled tasks is made from them.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from governor.events import (
    Event,
    StoreAnswered,
    TaskAdmitted,
    TaskDeferred,
    TaskDied,
    TaskDropped,
    TaskEvent,
    TaskHeld,
    TaskLate,
    TaskParked,
    TaskReleased,
    TaskRetried,
    TaskThrottled,
)

_KEPT = 4096

_COUNTED: Final = (
    TaskAdmitted, TaskDeferred, TaskDied, TaskDropped, TaskHeld, TaskLate, TaskParked,
    TaskReleased, TaskRetried, TaskThrottled,
)  # fmt: skip


class Stats:
    """A listener that counts what this process has done so far.

    Args:
        waiting: how many tasks wait in this worker, by upstream.
    """

    def __init__(self, waiting: Callable[[], Mapping[str, int]]) -> None:
        self._waiting = waiting
        self._counts: Counter[tuple[str, str]] = Counter()
        self._next_slot: dict[str, int] = {}
        self._limiter_calls = 0
        self._broker_messages = 0
        self._decision_us: deque[int] = deque(maxlen=_KEPT)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, StoreAnswered):
            self._limiter_calls += event.questions
            if event.call == "admit":
                self._decision_us.append(event.took)
        elif isinstance(event, _COUNTED) and event.upstream:
            self._counts[event.upstream, event.kind] += 1
            self._note(event)

    def _note(self, event: TaskEvent) -> None:
        if isinstance(event, TaskDeferred | TaskRetried):
            self._broker_messages += 1
        if isinstance(event, TaskHeld | TaskParked | TaskDeferred) and event.until:
            self._next_slot[event.upstream] = event.until

    def snapshot(self) -> dict[str, object]:
        """Make a JSON-ready copy. Decision times are the most recent, microseconds, sorted."""
        upstreams: dict[str, dict[str, int | None]] = {}
        for (upstream, what), number in list(self._counts.items()):
            upstreams.setdefault(upstream, {})[what] = number
        for upstream, number in list(self._waiting().items()):
            upstreams.setdefault(upstream, {})["waiting"] = number
        for upstream, counts in upstreams.items():
            counts["next_slot"] = self._next_slot.get(upstream)
        return {
            "upstreams": upstreams,
            "limiter_calls": self._limiter_calls,
            "broker_messages": self._broker_messages,
            "decision_us": sorted(self._decision_us.copy()),
        }

    def write(self, prefix: str) -> None:
        """Replace ``<prefix>.<pid>.json``, whole or not at all."""
        path = Path(f"{prefix}.{os.getpid()}.json")
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.snapshot()), encoding="utf-8")
        fresh.replace(path)
