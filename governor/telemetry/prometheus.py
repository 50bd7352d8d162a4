"""Metrics for Prometheus, made of events and served by the worker's main process.

``docs/telemetry.md`` lists them; a test compares the two. Labels have few values: no tenant, no
task id, and no task type that is not registered.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily

from governor.clock import SECOND, seconds
from governor.events import (
    BreakerMoved,
    ClaimLost,
    Event,
    LeaseExpired,
    LimitChanged,
    StateLost,
    StoreAnswered,
    StoreAway,
    StoreBack,
    TaskAdmitted,
    TaskDeferred,
    TaskDied,
    TaskDropped,
    TaskHeld,
    TaskLate,
    TaskParked,
    TaskRefused,
    TaskReleased,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
    TaskThrottled,
    TransitionRefused,
    UpstreamPaused,
)
from governor.log_lines import LOG

_FAST = (
    0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0,
)  # fmt: skip
"""Bounds in seconds of what takes a moment."""

_LATE = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_WAITS = (
    0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0,
)  # fmt: skip

_TASK = ("upstream", "task")
_LIMIT = ("upstream", "task", "limit")

COUNTERS: Mapping[type[Event], tuple[str, tuple[str, ...], str]] = {
    TaskAdmitted: ("tasks_admitted", _TASK, "Tasks that went to the pool"),
    TaskHeld: ("tasks_held", _LIMIT, "Waits inside the worker"),
    TaskParked: ("tasks_parked", _LIMIT, "Tasks that went into the parking lot"),
    TaskReleased: ("tasks_released", _TASK, "Tasks that came out of the parking lot"),
    TaskDeferred: ("tasks_deferred", _LIMIT, "Messages published again with a countdown"),
    TaskLate: ("tasks_late", _TASK, "Bodies that began too late for their slot"),
    TaskSucceeded: ("tasks_succeeded", _TASK, "Bodies that returned"),
    TaskThrottled: ("tasks_throttled", _TASK, "Times the upstream said not now"),
    TaskRetried: ("tasks_retried", _TASK, "Failed attempts whose next one was published"),
    TaskDied: ("tasks_dead", (*_TASK, "reason"), "Dead letters written"),
    TaskRefused: ("tasks_refused", _LIMIT, "Tasks whose slot was beyond max_wait"),
    TaskDropped: ("tasks_dropped", _TASK, "Second deliveries of messages that had run"),
    ClaimLost: ("claims_lost", _TASK, "Tasks begun by another worker, which died"),
    TransitionRefused: ("transitions_refused", _TASK, "Faults in the governor's own states"),
    LeaseExpired: ("leases_expired", ("upstream",), "Running calls that lost what they hold"),
    StoreAway: ("store_outages", ("upstream",), "Outages of the limiter store"),
    StateLost: ("state_losses", ("upstream",), "Times the store had forgotten the upstream"),
    LimitChanged: ("limit_changes", ("upstream",), "Changes of limits by people"),
    UpstreamPaused: ("pauses", ("upstream",), "Pauses of the upstream, and extensions"),
    BreakerMoved: ("breaker_moves", ("upstream", "state"), "Changes of the breaker's state"),
}
"""Of each event that is counted: the counter, without prefix and suffix, its labels, its help."""

HISTOGRAMS: Sequence[tuple[type[Event], str, tuple[str, ...], str, str, tuple[float, ...]]] = (
    (TaskAdmitted, "wait", _TASK, "waited", "From the first decision to the admission", _WAITS),
    (TaskStarted, "slot_lateness", ("upstream",), "late", "From the slot to the start", _LATE),
    (TaskAdmitted, "decision", ("upstream",), "took", "A decision that admits a task", _FAST),
    (StoreAnswered, "store", ("call",), "took", "One round trip to the limiter store", _FAST),
)
"""Of each event that is measured: the histogram, its labels, its field, its help, its bounds."""

_FIELDS = {"state": "after"}
"""Labels that have another name than the event's field."""

_Key = tuple[str, ...]


class Metrics:
    """A listener that counts and measures.

    Args:
        tasks: the registered task types: others have no label of their own.
        governed: task type and upstream of those that begin with zeros.
        waiting: how many tasks wait in this worker, by upstream.
    """

    def __init__(
        self,
        tasks: Container[str],
        governed: Iterable[tuple[str, str]],
        waiting: Callable[[], Mapping[str, int]],
    ) -> None:
        self._tasks = tasks
        self.registry = CollectorRegistry(auto_describe=True)
        self._handlers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        pairs = {*governed}
        zeros: dict[_Key, set[_Key]] = {
            _TASK: {(upstream, task) for task, upstream in pairs},
            ("upstream",): {("",), *((upstream,) for _, upstream in pairs)},
        }
        for kind, (name, labels, said) in COUNTERS.items():
            counter = Counter(f"governor_{name}", said, labels, registry=self.registry)
            self._handle(kind, self._counting(counter, labels))
            # A series that begins with its first event has no increase there.
            for key in zeros.get(labels, ()):
                counter.labels(*key)
        for kind, name, labels, field, said, bounds in HISTOGRAMS:
            histogram = Histogram(
                f"governor_{name}_seconds", said, labels, registry=self.registry, buckets=bounds
            )
            self._handle(kind, self._measuring(histogram, labels, field))
        away = Gauge(
            "governor_store_away", "1 while the limiter store does not answer", ("upstream",),
            registry=self.registry,
        )  # fmt: skip
        away.labels("").set(0)
        self._handle(StoreAway, lambda event: away.labels(event.upstream).set(1))
        self._handle(StoreBack, lambda event: away.labels(event.upstream).set(0))
        self.registry.register(_Waiting(waiting))

    def __call__(self, event: Event) -> None:
        """Count and measure one event."""
        for handle in self._handlers.get(type(event), ()):
            handle(event)

    def _handle(self, kind: type[Event], handle: Callable[[Any], None]) -> None:
        self._handlers[kind] = (*self._handlers.get(kind, ()), handle)

    def _counting(self, counter: Counter, labels: _Key) -> Callable[[Any], None]:
        key_of, increments = _key_of(labels), dict[Any, Callable[[], None]]()

        def count(event: Any) -> None:
            key = key_of(event)
            increment = increments.get(key)
            if increment is None:
                increment = counter.labels(*self._bounded(labels, key)).inc
                if self._is_bounded(labels, key):
                    increments[key] = increment
            increment()

        return count

    def _measuring(self, histogram: Histogram, labels: _Key, field: str) -> Callable[[Any], None]:
        key_of, value_of = _key_of(labels), attrgetter(field)
        observations = dict[Any, Callable[[float], None]]()

        def measure(event: Any) -> None:
            key = key_of(event)
            observe = observations.get(key)
            if observe is None:
                observe = histogram.labels(*self._bounded(labels, key)).observe
                if self._is_bounded(labels, key):
                    observations[key] = observe
            observe(value_of(event) / SECOND)

        return measure

    def _is_bounded(self, labels: _Key, key: Any) -> bool:
        return "task" not in labels or key[labels.index("task")] in self._tasks

    def _bounded(self, labels: _Key, key: Any) -> _Key:
        """The label values of a key, without a task type that anybody could have written."""
        values = (key,) if len(labels) == 1 else key
        if self._is_bounded(labels, key):
            return tuple(values)
        return tuple("" if label == "task" else v for label, v in zip(labels, values, strict=True))


class _Waiting:
    """The gauge of tasks that wait in this worker, read when it is asked for."""

    def __init__(self, waiting: Callable[[], Mapping[str, int]]) -> None:
        self._waiting = waiting

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauge without reading it: it is registered before there is a dispatcher."""
        yield GaugeMetricFamily(
            "governor_tasks_waiting", "Tasks that wait in this worker", labels=("upstream",)
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        (gauge,) = self.describe()
        for upstream, number in [*self._waiting().items()]:
            gauge.add_metric((upstream,), number)
        yield gauge


def _key_of(labels: _Key) -> Callable[[Event], Any]:
    return attrgetter(*(_FIELDS.get(label, label) for label in labels))


def serve(metrics: Metrics, port: int) -> Callable[[], None]:
    """Serve the metrics on every address of this host until what is returned is called. A port
    that cannot be used is a line in the log."""
    try:
        server, thread = start_http_server(port, registry=metrics.registry)
    except OSError as exc:
        LOG.error(
            "No metrics are served on port %d: %s. Set another governor_metrics_port", port, exc
        )
        return lambda: None

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(seconds(SECOND))

    return end
