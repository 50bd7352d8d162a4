"""The metrics that a real worker serves to Prometheus."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from governor.operations.fleet_gauges import GAUGES
from tests.integration.fleet import fleet
from tests.unit.test_docs import section, table
from tests.unit.test_telemetry import free_port

pytestmark = [pytest.mark.redis, pytest.mark.worker]


def test_a_worker_serves_its_metrics(tmp_path: Path, redis_url: str) -> None:
    """A worker with a port serves the documented names; none is one of the exporter's."""
    port = free_port()
    conf = {"governor_metrics_port": port}
    database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet(tmp_path, redis_url, redis_url, database_url, conf=conf) as shop:
        shop.worker("threads")
        text = scraped(port)
    told = table(section("docs/telemetry.md", "## Metrics of a worker"))
    documented = {metric.removesuffix("_total") for metric in told}
    families = text_string_to_metric_families(text)
    served = {family.name for family in families if not family.name.endswith("_created")}
    assert served == documented
    assert not served & {gauge.name for gauge in GAUGES}


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())
