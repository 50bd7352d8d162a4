"""Log, metrics and spans are made of events; each backend is there only when it is wanted."""

from __future__ import annotations

import builtins
import json
import logging
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from governor.clock import SECOND
from governor.errors import ConfigurationError
from governor.events import (
    BreakerMoved,
    Emitter,
    Event,
    StateLost,
    StoreAnswered,
    StoreAway,
    StoreBack,
    TaskAdmitted,
    TaskDied,
    TaskHeld,
    TaskRetried,
    TaskStarted,
)
from governor.redaction.redactor import Redactor
from governor.telemetry.backends import begin
from governor.telemetry.log import EventLog
from governor.telemetry.opentelemetry import WaitSpans
from governor.telemetry.prometheus import Metrics, serve
from governor.telemetry.stats import Stats

ROOT = Path(__file__).resolve().parents[2]

AT = 1_700_000_000 * SECOND
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
WHO = ("id-1", "billing.charge", "stripe")

ADMITTED = TaskAdmitted(AT, *WHO, 0, 3 * SECOND, 2, "100/s", PARENT, "", 700)
HELD = TaskHeld(AT, *WHO, AT + SECOND, "100/s")
DIED = TaskDied(AT, *WHO, "expired", 1, 7 * SECOND, 2, "", "database")


def metrics(waiting: Callable[[], dict[str, int]] = dict) -> Metrics:
    return Metrics({"billing.charge"}, [("billing.charge", "stripe")], waiting)


# ---------------------------------------------------------------------- metrics


def documented() -> dict[str, tuple[str, set[str]]]:
    found = {}
    for line in (ROOT / "docs/telemetry.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`governor_"):
            found[cells[0].strip("`")] = (cells[1], {*re.findall(r"`(\w+)`", cells[2])})
    return found


def test_the_page_lists_what_is_served() -> None:
    """Each metric stands in the table with its type and its labels."""
    served = metrics()
    found = {}
    for family in served.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        names = getattr(family, "_labelnames", None)
        found[family.name + suffix] = (family.type, names)
    assert {name: kind for name, (kind, _) in documented().items()} == {
        name: kind for name, (kind, _) in found.items()
    }
    for collector in served.registry._collector_to_names:
        described = getattr(collector, "_name", None)
        if described is not None:
            name = described + ("_total" if collector._type == "counter" else "")
            assert {*collector._labelnames} == documented()[name][1], name


def test_an_event_counts_where_it_belongs() -> None:
    """Counters have the event's labels; durations are seconds."""
    served = metrics(lambda: {"stripe": 4})
    for event in (
        ADMITTED, HELD, DIED, BreakerMoved(AT, "stripe", "open", "half_open"),
        TaskStarted(AT, *WHO, 20_000), StoreAnswered(AT, "admit", 3, 400),
    ):  # fmt: skip
        served(event)
    value = served.registry.get_sample_value
    task = {"upstream": "stripe", "task": "billing.charge"}
    assert value("governor_tasks_admitted_total", task) == 1
    assert value("governor_tasks_held_total", {**task, "limit": "100/s"}) == 1
    assert value("governor_tasks_dead_total", {**task, "reason": "expired"}) == 1
    moved = {"upstream": "stripe", "state": "half_open"}
    assert value("governor_breaker_moves_total", moved) == 1
    assert value("governor_wait_seconds_sum", task) == 3
    assert value("governor_slot_lateness_seconds_bucket", {"upstream": "stripe", "le": "0.02"}) == 1
    assert value("governor_slot_lateness_seconds_bucket", {"upstream": "stripe", "le": "0.01"}) == 0
    assert value("governor_store_seconds_sum", {"call": "admit"}) == 0.0004
    assert value("governor_decision_seconds_count", {"upstream": "stripe"}) == 1
    assert value("governor_tasks_waiting", {"upstream": "stripe"}) == 4


def test_the_store_is_away_until_it_is_back() -> None:
    """The gauge is 1 for as long as an outage lasts, and 0 before the first."""
    served = metrics()
    value, everywhere = served.registry.get_sample_value, {"upstream": ""}
    assert value("governor_store_away", everywhere) == 0
    served(StoreAway(AT, "", "TimeoutError"))
    assert value("governor_store_away", everywhere) == 1
    served(StoreBack(AT, "", SECOND))
    assert value("governor_store_away", everywhere) == 0
    assert value("governor_store_outages_total", everywhere) == 1


def test_series_begin_with_zero() -> None:
    """An increase from nothing to one is seen only if there was a zero."""
    task = {"upstream": "stripe", "task": "billing.charge"}
    assert metrics().registry.get_sample_value("governor_tasks_retried_total", task) == 0


def test_an_unregistered_task_type_has_no_series_of_its_own() -> None:
    """Anybody who can publish can invent names."""
    served = metrics()
    for number in range(3):
        served(TaskDied(AT, "id", f"invented-{number}", "", "unknown_task", 0, 0, 0, "", "disk"))
    labels = {"upstream": "", "task": "", "reason": "unknown_task"}
    assert served.registry.get_sample_value("governor_tasks_dead_total", labels) == 3


def test_no_label_holds_a_task_id_or_a_tenant() -> None:
    """Their number has no bound."""
    allowed = {"upstream", "task", "limit", "reason", "state", "call"}
    assert {label for _, labels in documented().values() for label in labels} <= allowed


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_metrics_are_served_until_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The port is free again afterwards."""
    port = free_port()
    end = serve(metrics(), port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"governor_tasks_admitted_total" in answer.read()
    end()
    serve(metrics(), port)()
    assert not caplog.records


def test_a_port_in_use_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Two workers of a host may have the same settings; neither may fail."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serve(metrics(), port)()
    assert f"No metrics are served on port {port}" in caplog.text


# ---------------------------------------------------------------------- log


def logged(form: Any, event: Event, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, "governor.events")
    EventLog(form, Redactor().text)(event)
    return [record.getMessage() for record in caplog.records]


def test_a_line_of_text(caplog: pytest.LogCaptureFixture) -> None:
    """It says which task, which event, and its numbers in seconds."""
    (line,) = logged("text", ADMITTED, caplog)
    assert line == (
        "Task billing.charge[id-1] admitted: upstream=stripe attempt=0 waited=3.0 deferrals=2 "
        f"limit=100/s traceparent={PARENT} took=0.0007"
    )


def test_a_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    """It holds every field; instants are ISO 8601, durations seconds."""
    (line,) = logged("json", HELD, caplog)
    assert json.loads(line) == {
        "event": "held", "at": "2023-11-14T22:13:20.000+00:00", "task_id": "id-1",
        "task": "billing.charge", "upstream": "stripe",
        "until": "2023-11-14T22:13:21.000+00:00", "limit": "100/s",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_hides_secrets_and_stays_one(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """A task's id and type are whatever its sender wrote."""
    task_id = "x\npassword=hunter2hunter2"
    event = TaskDied(AT, task_id, "t", "", "unknown_task", 0, 0, 0, "", "disk")
    (line,) = logged(form, event, caplog)
    assert "hunter2" not in line
    assert "\n" not in line


@pytest.mark.parametrize("event", [TaskStarted(AT, *WHO, 1), StoreAnswered(AT, "admit", 1, 1)])
def test_measurements_are_no_lines(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody looks for one among thousands."""
    assert logged("text", event, caplog) == []


# ---------------------------------------------------------------------- spans


def spans(*events: Event) -> list[ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    listener = WaitSpans(provider)
    for event in events:
        listener(event)
    return [*exporter.get_finished_spans()]


def test_a_wait_is_a_span_of_the_tasks_trace() -> None:
    """It has the message's trace and parent, begins with the wait, and says what was waited for."""
    (span,) = spans(ADMITTED, HELD)
    assert span.name == "governor wait"
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (span.start_time, span.end_time) == (1_000 * (AT - 3 * SECOND), 1_000 * AT)
    assert dict(span.attributes or {}) == {
        "celery.task_name": "billing.charge", "messaging.message.id": "id-1",
        "governor.upstream": "stripe", "governor.limit": "100/s", "governor.attempt": 0,
        "governor.deferrals": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        # admitted at once
        TaskAdmitted(AT, *WHO, 0, 0, 0, "", PARENT, "", 0),
        # its message carries no trace
        TaskAdmitted(AT, *WHO, 0, SECOND, 0, "100/s", "", "", 0),
    ],
)
def test_what_has_no_wait_or_no_trace_has_no_span(event: Event) -> None:
    """A span that says nothing costs money."""
    assert spans(event) == []


# ---------------------------------------------------------------------- counters for tools


def test_the_counters_for_tools_listen_too() -> None:
    """They count events by upstream, calls of the store and messages of the broker."""
    stats = Stats(lambda: {"stripe": 4})
    for event in (
        ADMITTED, HELD, DIED, StoreAnswered(AT, "admit", 3, 400), StoreAnswered(AT, "settle", 1, 9),
        TaskRetried(AT, *WHO, 0, SECOND, "TimeoutError", 0),
        TaskDied(AT, "id", "", "", "unknown_task", 0, 0, 0, "", "disk"),
    ):  # fmt: skip
        stats(event)
    assert stats.snapshot() == {
        "upstreams": {
            "stripe": {
                "admitted": 1, "held": 1, "dead": 1, "retried": 1, "waiting": 4,
                "next_slot": AT + SECOND,
            }
        },
        "limiter_calls": 4, "broker_messages": 1, "decision_us": [400],
    }  # fmt: skip


# ---------------------------------------------------------------------- backends


def begun(events: Emitter, **settings: Any) -> Callable[[], None]:
    known = SimpleNamespace(**{"log": None, "metrics_port": None, "tracing": False, **settings})
    return begin(
        events, known, redact=str, tasks=(), governed=list, waiting=dict  # type: ignore[arg-type]
    )  # fmt: skip


def test_nothing_listens_unless_it_is_set() -> None:
    """No event is made then."""
    events = Emitter()
    begun(events)()
    assert not events.listeners


def test_what_is_set_listens_until_the_end() -> None:
    """All three at once."""
    events = Emitter()
    end = begun(events, log="json", metrics_port=free_port(), tracing=True)
    assert len(events.listeners) == 3
    events.emit(StateLost(AT, "stripe"))
    end()
    assert not events.listeners


@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        ({"metrics_port": 9_540}, "prometheus_client", "prometheus"),
        ({"tracing": True}, "opentelemetry", "otel"),
    ],
)
def test_a_missing_package_names_its_extra(
    settings: dict[str, Any], package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does not start without what its settings ask for."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.startswith("governor.telemetry.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigurationError, match=rf"celery-governor\[{extra}\]"):
        begun(Emitter(), **settings)


def test_backends_are_imported_when_they_are_used() -> None:
    """An installation without the extras has all else."""
    said = "import governor.governor, governor.telemetry.backends, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    backends = ("log", "prometheus", "opentelemetry")
    assert not {f"governor.telemetry.{name}" for name in backends} & {*done.stdout.split()}
