"""The metrics that a real worker serves to Prometheus."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from governor.operations.fleet_gauges import GAUGES
from tests.integration.fleet import MODULE, fleet, wait_until
from tests.unit.test_docs import section, table
from tests.unit.test_fleet_gauges import values
from tests.unit.test_telemetry import free_port

pytestmark = [pytest.mark.redis, pytest.mark.worker]


def test_a_worker_serves_its_metrics(tmp_path: Path, redis_url: str) -> None:
    """A worker with a port counts its tasks under the documented names; none is the exporter's."""
    port = free_port()
    conf = {"governor_metrics_port": port}
    database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet(tmp_path, redis_url, redis_url, database_url, conf=conf) as shop:
        shop.worker("threads")
        shop.send("call")
        own = f"{{task={MODULE}.call,upstream=api}}"
        succeeded = f"governor_tasks_succeeded_total{own}"
        text = wait_until(lambda: scraped(port), lambda text: values(text)[succeeded] == 1)
    assert values(text)[f"governor_tasks_admitted_total{own}"] == 1
    assert values(text)[f"governor_wait_seconds_count{own}"] == 1
    told = table(section("docs/telemetry.md", "## Metrics of a worker"))
    documented = {metric.removesuffix("_total") for metric in told}
    families = text_string_to_metric_families(text)
    served = {family.name for family in families if not family.name.endswith("_created")}
    assert served == documented
    assert not served & {gauge.name for gauge in GAUGES}


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())
