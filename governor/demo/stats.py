"""The workers' own counters, merged: for the view and figures, never the balance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class UpstreamStats:
    """Counts of one upstream over all workers. What a worker never counted is zero.

    Attributes:
        waiting: tasks held now.
        next_slot: when the next of them may run, in wall-clock microseconds.
    """

    admitted: int = 0
    held: int = 0
    deferred: int = 0
    throttled: int = 0
    dead: int = 0
    waiting: int = 0
    next_slot: int | None = None


@dataclass(slots=True)
class DemoStats:
    """Counts of all workers.

    Attributes:
        broker_messages: published by the workers: deferrals and retries.
        decision_us: admission decisions' latencies in microseconds, a sample, ascending.
    """

    upstreams: dict[str, UpstreamStats] = field(default_factory=dict)
    limiter_calls: int = 0
    broker_messages: int = 0
    decision_us: Sequence[int] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float | None:
        """The latency in milliseconds that ``share`` of the decisions stay within."""
        if not self.decision_us:
            return None
        index = min(len(self.decision_us) - 1, int(share * len(self.decision_us)))
        return self.decision_us[index] / 1000


_COUNTS = ("admitted", "held", "deferred", "throttled", "dead", "waiting")


def merge(parts: Iterable[Mapping[str, Any]]) -> DemoStats:
    """Sum what several workers wrote."""
    total = DemoStats()
    latencies: list[int] = []
    for part in parts:
        for name, counts in part["upstreams"].items():
            upstream = total.upstreams.setdefault(name, UpstreamStats())
            for count in _COUNTS:
                setattr(upstream, count, getattr(upstream, count) + counts.get(count, 0))
            slots = [
                slot for slot in (upstream.next_slot, counts.get("next_slot")) if slot is not None
            ]
            upstream.next_slot = min(slots, default=None)
        total.limiter_calls += part["limiter_calls"]
        total.broker_messages += part["broker_messages"]
        latencies += part["decision_us"]
    total.decision_us = sorted(latencies)
    return total


def read_stats(folder: Path) -> DemoStats:
    """Merge the workers' files in ``folder``; a worker that wrote none yet counts as zero."""
    return merge(json.loads(path.read_text()) for path in sorted(folder.glob("stats.*.json")))
