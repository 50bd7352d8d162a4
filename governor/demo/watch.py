"""Looking at a run from outside while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from governor.demo.ledger import CallLedger, read_dead_rows
from governor.demo.scenario import PlannedTask
from governor.demo.stats import DemoStats, read_stats


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        planned: tasks by upstream.
        finished: those that succeeded or died, by the upstream's ledger and the database.
        dead: those that died.
    """

    planned: Mapping[str, int]
    stage: str = "starting"
    published: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[str, int] = field(default_factory=dict)
    stats: DemoStats = field(default_factory=DemoStats)


Show = Callable[[Progress], None]


class Watch:
    """Reads the witnesses of a run and shows them."""

    def __init__(
        self,
        planned: Sequence[PlannedTask],
        ledger: CallLedger,
        database: sa.Engine,
        folder: Path,
        show: Show,
    ) -> None:
        self._upstreams = {task.task_id: task.upstream for task in planned}
        self._ledger = ledger
        self._database = database
        self._folder = folder
        self._show = show
        self.progress = Progress(Counter(self._upstreams.values()))

    def stage(self, name: str) -> None:
        """Say what is going on now."""
        self.progress.stage = name
        self._show(self.progress)

    def look(self) -> int:
        """Read everything anew, show it, and count the tasks that succeeded or died.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        self._ledger.read()
        dead = {row.task_id for row in read_dead_rows(self._database, self._upstreams)}
        finished = self._ledger.succeeded | dead
        self.progress.finished = self._by_upstream(finished)
        self.progress.dead = self._by_upstream(dead)
        self.progress.stats = read_stats(self._folder)
        self._show(self.progress)
        return sum(self.progress.finished.values())

    def _by_upstream(self, task_ids: set[str]) -> Mapping[str, int]:
        return Counter(self._upstreams[t] for t in task_ids if t in self._upstreams)
