"""Celery's own ``rate_limit``: a token bucket of one token in each worker, for each task type.

It cannot be asked from outside, so this is an app for real workers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from celery import Celery

NAME = "Celery, rate_limit"
SETTING = "rate_limit on the task type, four workers of four threads: it holds for each of them"

PREFETCHED = 200
"""Messages a worker takes ahead. It reads on only when some are acknowledged, and its loop may
sleep for a second before it does."""

ENVIRONMENT = "GOVERNOR_BENCHMARK_RATE_LIMIT"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a worker.

    Attributes:
        ledger: the file that gets the moment of each call.
    """

    redis_url: str
    rate: float
    ledger: str

    @property
    def queue(self) -> str:
        """A queue for each rate."""
        return f"rate-{self.rate:g}"

    def environment(self) -> Mapping[str, str]:
        """The environment of a process that has these settings."""
        return {ENVIRONMENT: json.dumps(asdict(self))}


def build(settings: Settings) -> Celery:
    """An app with one task type."""
    app = Celery("rate_limit", broker=settings.redis_url)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=PREFETCHED // 4,
    )

    @app.task(name="call", rate_limit=f"{settings.rate:g}/s", shared=False)  # type: ignore[untyped-decorator]
    def call() -> None:
        with Path(settings.ledger).open("a") as ledger:
            ledger.write(f"{time.monotonic()}\n")

    return app


def publish(settings: Settings, count: int) -> None:
    """So many calls, over one connection."""
    app = build(settings)
    with app.producer_or_acquire() as producer:
        signature = app.tasks["call"].s()
        for _ in range(count):
            signature.apply_async(producer=producer, queue=settings.queue)
    app.close()


def moments(ledger: Path) -> list[float]:
    """The moments of the calls, without a line that is still being written."""
    if not ledger.exists():
        return []
    text = ledger.read_text()
    return [float(line) for line in text[: text.rfind("\n") + 1].splitlines()]


if ENVIRONMENT in os.environ:
    app = build(Settings(**json.loads(os.environ[ENVIRONMENT])))
