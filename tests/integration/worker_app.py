"""Celery apps of worker processes, whose addresses and further settings are in the environment."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery


def worker_app(name: str, *, backend: str | None = None, **settings: Any) -> Celery:
    """Make the app of a worker process; ``$CONF``, a JSON object, overrides its settings."""
    app = Celery(name, backend=backend)
    app.conf.update(
        governor_redis_url=os.environ["LIMITER_URL"],
        governor_database_url=os.environ["DATABASE_URL"],
        governor_spill_dir=os.environ["SPILL_DIR"],
        broker_connection_retry_on_startup=True,
        **settings,
    )
    app.conf.update(json.loads(os.environ.get("CONF", "{}")))
    return app
