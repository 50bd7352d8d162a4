"""A real worker's metrics and spans, beside OpenTelemetry's own instrumentation of Celery."""

from __future__ import annotations

import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from governor import GovernedTask, Governor, Limit, Retry, Throttled, Upstream
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from tests.integration.fleet import PATIENT

pytestmark = [pytest.mark.redis]

parked = Upstream("parked", Limit("5/s", burst=1))
deferred = Upstream("deferred", Limit("5/s", burst=1), parking="broker")
free = Upstream("free", Limit("1000/s", burst=100))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Where this process's spans go, with Celery instrumented."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    app = Celery("telemetry", broker=redis_url, backend="cache+memory://")
    app.conf.update(
        governor_redis_url=redis_url,
        governor_timeout=PATIENT,
        governor_database_url=f"sqlite:///{tmp_path / 'dead.sqlite'}",
        governor_spill_dir=str(tmp_path / "spill"),
        governor_hold=0.05,
        governor_metrics_port=port,
        governor_tracing=True,
        worker_hijack_root_logger=False,
    )
    governor = Governor(app)
    schema.upgrade(bounded_engine(app.conf.governor_database_url, timeout=PATIENT))
    told: set[str] = set()

    for upstream in (parked, deferred):

        @app.task(base=GovernedTask, upstream=upstream, name=upstream.name, shared=False)
        def call(number: int) -> int:
            return number

    retry = Retry(on=ConnectionError, attempts=3)
    options = {"base": GovernedTask, "upstream": free, "bind": True, "shared": False}

    @app.task(**options, name="fails_once", idempotent=True, retry=retry)
    def fails_once(self: Any) -> None:
        if not self.request.retries:
            raise ConnectionError

    @app.task(**options, name="throttled_once")
    def throttled_once(self: Any) -> None:
        if self.request.id not in told:
            told.add(self.request.id)
            raise Throttled(retry_after=0.3)

    yield app
    governor.rest()
    app.close()


def run(app: Any, task: str, *calls: tuple[Any, ...]) -> str:
    """Run these calls in a worker; the metrics that it serves then."""
    with start_worker(app, pool="threads", perform_ping_check=False, shutdown_timeout=30):
        results = [app.tasks[task].delay(*call) for call in calls]
        for result in results:
            result.get(timeout=30, interval=0.01)
        port = app.conf.governor_metrics_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())


def names(spans: InMemorySpanExporter) -> dict[int, list[str]]:
    """The spans of each trace, by name."""
    found: dict[int, list[str]] = {}
    for span in spans.get_finished_spans():
        assert span.context is not None
        found.setdefault(span.context.trace_id, []).append(span.name)
    return {trace_id: sorted(called) for trace_id, called in found.items()}


@pytest.mark.parametrize("task", ["parked", "deferred"])
def test_a_wait_is_one_span_and_nothing_is_doubled(
    app: Celery, spans: InMemorySpanExporter, task: str
) -> None:
    """Each task is published once and runs once in its trace; one that was parked, or published
    again with a countdown, has its wait there, and no more."""
    text = run(app, task, *((number,) for number in range(4)))
    found = names(spans)
    assert len(found) == 4
    own = [f"apply_async/{task}", f"run/{task}"]
    waited = sorted([*own, "governor wait"])
    assert {tuple(called) for called in found.values()} <= {tuple(own), tuple(waited)}
    assert Counter(map(tuple, found.values()))[tuple(waited)] >= 2
    longest = max(
        (span for span in spans.get_finished_spans() if span.name == "governor wait"),
        key=lambda span: (span.end_time or 0) - (span.start_time or 0),
    )
    attributes = dict(longest.attributes or {})
    assert attributes["governor.upstream"] == task
    assert int(str(attributes["governor.deferrals"])) >= 1
    assert (longest.end_time or 0) - (longest.start_time or 0) >= 300_000_000
    labels = f'{{task="{task}",upstream="{task}"}}'
    assert f"governor_tasks_admitted_total{labels} 4.0" in text
    assert f"governor_wait_seconds_count{labels} 4.0" in text
    assert f'governor_slot_lateness_seconds_count{{upstream="{task}"}} 4.0' in text
    assert 'governor_store_seconds_count{call="admit"}' in text


@pytest.mark.parametrize("task", ["fails_once", "throttled_once"])
def test_every_run_is_a_span_of_one_trace(
    app: Celery, spans: InMemorySpanExporter, task: str
) -> None:
    """A retry and a wait that the upstream asked for are no publish to the instrumentation."""
    run(app, task, ())
    ((_, found),) = names(spans).items()
    assert found.count(f"apply_async/{task}") == 1
    assert found.count(f"run/{task}") == 2
