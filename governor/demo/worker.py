"""Entry point of the demo's workers: ``celery -A governor.demo.worker worker``."""

from __future__ import annotations

from governor.demo.workload import WorkloadSettings, build

app = build(WorkloadSettings.from_environment())
