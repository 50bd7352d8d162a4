"""Counters of one worker process, kept for tools that watch it.

Nothing here decides anything, and no claim about lost or doubled tasks is made from it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from pathlib import Path

_KEPT = 4096


class Stats:
    """What this process's governor has done so far.

    ``waiting`` is a number that goes up and down; all else only grows. Increments happen in
    one thread (the worker's loop); a writer in another may see them a moment late.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.next_slot: dict[str, int] = {}
        self.limiter_calls = 0
        self.broker_messages = 0
        self._decision_us: deque[int] = deque(maxlen=_KEPT)

    def count(self, upstream: str, what: str, by: int = 1) -> None:
        """Count ``what``: admitted, held, deferred, throttled, retried, dropped, dead, waiting."""
        self.counts[upstream, what] += by

    def decided(self, micros: int, decisions: int = 1) -> None:
        """One round trip of ``micros`` that took so many decisions."""
        self.limiter_calls += decisions
        self._decision_us.append(micros)

    def settled(self) -> None:
        """One settlement: a limiter call that decides nothing."""
        self.limiter_calls += 1

    def snapshot(self) -> dict[str, object]:
        """A JSON-ready copy. Decision times are the most recent, microseconds, sorted."""
        upstreams: dict[str, dict[str, int | None]] = {}
        for (upstream, what), number in list(self.counts.items()):
            upstreams.setdefault(upstream, {})[what] = number
        for upstream, counts in upstreams.items():
            counts["next_slot"] = self.next_slot.get(upstream)
        return {
            "upstreams": upstreams,
            "limiter_calls": self.limiter_calls,
            "broker_messages": self.broker_messages,
            "decision_us": sorted(self._decision_us.copy()),
        }

    def write(self, prefix: str) -> None:
        """Replace ``<prefix>.<pid>.json``, whole or not at all."""
        path = Path(f"{prefix}.{os.getpid()}.json")
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.snapshot()), encoding="utf-8")
        fresh.replace(path)
