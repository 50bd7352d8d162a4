"""Gauges in the Prometheus format, over HTTP or as a text: for values read when they are asked for.

Needs the extra ``prometheus``. What the values mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from governor.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric that goes up and down.

    Attributes:
        help: its unit and meaning, in one sentence.
        labels: their names; each has a bounded number of values.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a gauge, with the values of its labels in their order."""

    gauge: Gauge
    labels: tuple[str, ...]
    value: float


Read = Callable[[], Iterable[Sample]]
"""Reads all values anew."""


class _Collector:
    """A collector that reads at each scrape."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Name nothing: prometheus_client would collect to find the names out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read, and put the samples of one gauge together."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[Gauge, GaugeMetricFamily] = {}
        for sample in self._read():
            gauge = sample.gauge
            if gauge not in families:
                families[gauge] = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            families[gauge].add_metric(sample.labels, sample.value)
        yield from families.values()


def text(read: Read) -> str:
    """Read once and write the values in the Prometheus text format.

    Raises:
        ConfigurationError: prometheus_client is not installed.
    """
    registry = _registry(read)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def serve(read: Read, address: str, port: int) -> tuple[int, Callable[[], None]]:
    """Answer ``GET /metrics`` from a thread, each time with values read anew.

    Returns:
        the port, and what ends it.

    Raises:
        ConfigurationError: prometheus_client is not installed, or the port cannot be listened on.
    """
    registry = _registry(read)
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(f"exporter: {address} port {port}: {why}. Give another") from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, end


def _registry(read: Read) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            "exporter: prometheus_client is not installed. "
            "pip install 'celery-governor[prometheus]'"
        ) from exc
    registry = CollectorRegistry(auto_describe=False)
    collector: Any = _Collector(read)  # prometheus_client's base class adds nothing
    registry.register(collector)
    return registry
