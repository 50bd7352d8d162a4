"""Entry point of the demo's workers: ``celery -A governor.demo.worker worker``."""

from __future__ import annotations

from governor.demo.workload import Settings, build

app = build(Settings.from_environment())
