"""The fleet's own gauges: what waits, what is left of the limits, what is dead, who answers.

Read from the limiter store, the dead-letter database and the spill folder, for the whole fleet by
one process. No label has a ``per=`` value, a tenant or a task id; a task label names one of the
application's task types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from governor.clock import SECOND, Clock, seconds
from governor.deadletter.history import DeadCount
from governor.deadletter.spill import Backlog
from governor.errors import DatabaseUnavailable
from governor.log_lines import LOG
from governor.operations.parking_status import ParkedTasks
from governor.operations.upstream_gauges import UPSTREAM_GAUGES, UPSTREAM_UP, upstream_samples
from governor.telemetry.exporter import Gauge, Sample

STORE_BUDGET = 3 * SECOND
"""Time after which a reading asks about no further upstream; the store bounds each of its calls."""

OTHER = "other"
"""The task label of dead letters whose task the application does not have."""

STORE_UP = Gauge(
    "governor_store_up",
    "1 if the limiter store answered for every upstream, else 0; absent without upstreams.",
)
DATABASE_UP = Gauge("governor_database_up", "1 if the dead-letter database answered, else 0.")
SCRAPE_SECONDS = Gauge(
    "governor_scrape_duration_seconds", "Seconds that reading took, by source.", ("source",)
)
DEAD_LETTERS = Gauge(
    "governor_dead_letters", "Rows of the dead-letter table.", ("reason", "task", "state")
)
SPILL_PENDING = Gauge(
    "governor_spill_pending", "Deaths in this host's spill folder that wait for the database."
)
SPILL_SET_ASIDE = Gauge(
    "governor_spill_set_aside",
    "Deaths in this host's spill folder that a person must look at.",
    ("why",),
)

GAUGES: tuple[Gauge, ...] = (
    STORE_UP, DATABASE_UP, SCRAPE_SECONDS, DEAD_LETTERS, SPILL_PENDING, SPILL_SET_ASIDE,
    *UPSTREAM_GAUGES,
)  # fmt: skip
"""Every gauge of the exporter."""


class FleetGauges:
    """A reader of the gauges.

    Args:
        upstreams: their names.
        parked: of the application.
        count_dead: counts the rows; raises ``DatabaseUnavailable``.
        backlog: counts what is spilled; raises ``OSError``.
        tasks: names of the application's task types.
        budget: microseconds after which no further upstream is asked about.
    """

    def __init__(
        self,
        *,
        upstreams: Sequence[str],
        parked: ParkedTasks,
        count_dead: Callable[[], Sequence[DeadCount]],
        backlog: Callable[[], Backlog],
        tasks: Collection[str],
        clock: Clock,
        budget: int = STORE_BUDGET,
    ) -> None:
        self._upstreams = upstreams
        self._parked = parked
        self._count_dead = count_dead
        self._backlog = backlog
        self._tasks = tasks
        self._clock = clock
        self._budget = budget
        self._problems: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """The failures of the latest reading, in words; empty when it read everything."""
        return self._problems

    def read(self) -> tuple[Sample, ...]:
        """Read everything once. A source that does not answer is a gauge at 0, and its other gauges
        are absent. A new problem is logged once."""
        samples: list[Sample] = []
        problems: list[str] = []
        for source, read in (
            ("store", self._store), ("database", self._database), ("spill", self._spill)
        ):  # fmt: skip
            began = self._clock.monotonic()
            samples += read(problems)
            took = self._clock.monotonic() - began
            samples.append(Sample(SCRAPE_SECONDS, (source,), seconds(took)))
        for problem in problems:
            if problem not in self._problems:
                LOG.warning("Exporter: %s", problem)
        self._problems = tuple(problems)
        return tuple(samples)

    def _store(self, problems: list[str]) -> Iterator[Sample]:
        until = self._clock.monotonic() + self._budget
        away = []
        for name in self._upstreams:
            if self._clock.monotonic() >= until:
                away.append(name)
                yield Sample(UPSTREAM_UP, (name,), 0)
                continue
            try:
                found = self._parked.standing(name)
                samples = [*upstream_samples(found)]
            except Exception as exc:  # noqa: BLE001 - one upstream's data hides no other's
                problems.append(f"The state of {name} cannot be read: {type(exc).__name__}: {exc}")
                yield Sample(UPSTREAM_UP, (name,), 0)
                continue
            yield Sample(UPSTREAM_UP, (name,), found.lot is not None)
            yield from samples
            if found.upstream.problem is not None:
                problems.append(found.upstream.problem)
            elif found.upstream.now is None:
                away.append(name)
            elif found.lot is None:
                problems.append(f"The parking lot of {name} cannot be read")
        if away:
            named = ", ".join(away[:3]) + (", …" if len(away) > 3 else "")
            problems.append(f"The limiter store did not answer for {named}")
        if self._upstreams:
            yield Sample(STORE_UP, (), not away)

    def _database(self, problems: list[str]) -> Iterator[Sample]:
        try:
            counts = self._count_dead()
        except DatabaseUnavailable as exc:
            problems.append(str(exc))
            yield Sample(DATABASE_UP, (), 0)
            return
        yield Sample(DATABASE_UP, (), 1)
        by_labels: Counter[tuple[str, str, str]] = Counter()
        for found in counts:
            task = found.task_name if found.task_name in self._tasks else OTHER
            by_labels[found.reason, str(task), found.state] += found.count
        for labels, number in sorted(by_labels.items()):
            yield Sample(DEAD_LETTERS, labels, number)

    def _spill(self, problems: list[str]) -> Iterator[Sample]:
        try:
            found = self._backlog()
        except OSError as exc:
            problems.append(f"The spill folder cannot be read: {exc.strerror}")
            return
        yield Sample(SPILL_PENDING, (), found.pending)
        yield Sample(SPILL_SET_ASIDE, ("refused",), found.refused)
        yield Sample(SPILL_SET_ASIDE, ("broken",), found.broken)
