"""The Celery app of the benchmarks' workers and producers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import redis
from celery import Celery, Task, signals

from governor import GovernedTask, Governor, Limit, Upstream
from governor.policy.upstream import Parking

ENVIRONMENT = "GOVERNOR_BENCHMARK"
NUMBER = "GOVERNOR_BENCHMARK_WORKER"

# Celery ships no types.
Declare = Callable[..., Callable[[Callable[..., object]], object]]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a worker.

    Attributes:
        folder: for the ledger, statistics and logs.
        broker_url: of the broker; Redis is the broker without one.
        rate: of the one upstream, as in ``Limit``.
        hold: ``governor_hold``, seconds.
        governed: whether there is a governor at all.
        parking, fair_by, reserve, urgent, max_wait: of the upstream, as in ``Upstream``.
        upstream_url: of the stand-in upstream that ``call`` calls.
        stats: whether the worker counts for the benchmark.
        metrics_port: where it serves metrics for Prometheus.
    """

    redis_url: str
    folder: str
    broker_url: str = ""
    rate: str = "1000000/s"
    burst: int = 1_000_000
    hold: float = 1.0
    governed: bool = True
    parking: Parking = "store"
    fair_by: str | None = None
    reserve: float = 0.0
    urgent: tuple[int, ...] = ()
    max_wait: float = 3600.0
    upstream_url: str = ""
    stats: bool = True
    metrics_port: int | None = None

    def environment(self) -> Mapping[str, str]:
        """The environment of a process that has these settings."""
        return {ENVIRONMENT: json.dumps(asdict(self))}


def build(settings: Settings) -> Celery:
    """The app: ``plain`` tasks, and governed ones unless there is no governor."""
    broker = settings.broker_url or settings.redis_url
    app = Celery("benchmark", broker=broker, backend=settings.redis_url)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=4,
    )
    declare: Declare = app.task

    @declare(shared=False, name="plain.noop", ignore_result=True)
    def plain_noop() -> None:
        """Nothing, acknowledged early: Celery's default."""

    @declare(shared=False, name="plain.noop_late", ignore_result=True, acks_late=True)
    def plain_noop_late() -> None:
        """Nothing, acknowledged late, as governed tasks are."""

    @declare(shared=False, name="plain.busy", ignore_result=True)
    def busy(seconds: float) -> None:
        _write(settings, task="busy", at=time.monotonic())
        time.sleep(seconds)

    @declare(shared=False, name="plain.stamp", ignore_result=True, bind=True)
    def plain_stamp(self: Task, tenant: str = "") -> None:
        stamp(settings, self.request.id, tenant)

    @declare(shared=False, name="plain.call", ignore_result=True, bind=True)
    def plain_call(self: Task) -> None:
        call_upstream(settings, self.request.id, self.request.id)

    @declare(shared=False, name="plain.add")
    def plain_add(*values: Any) -> int:
        return _total(values)

    if settings.governed:
        app.conf.update(
            governor_redis_url=settings.redis_url,
            governor_database_url=f"sqlite:///{settings.folder}/dead.sqlite",
            governor_spill_dir=f"{settings.folder}/spill",
            governor_hold=settings.hold,
            governor_stats_file=f"{settings.folder}/stats" if settings.stats else None,
            governor_metrics_port=settings.metrics_port,
        )
        Governor(app)
        _governed(app, settings)
    else:
        _others(app, settings)
    return app


def _governed(app: Celery, settings: Settings) -> None:
    declare: Declare = app.task
    upstream = Upstream(
        "api",
        Limit(settings.rate, burst=settings.burst),
        parking=settings.parking,
        fair_by=settings.fair_by,
        reserve=settings.reserve,
        urgent=settings.urgent,
        max_wait=settings.max_wait,
    )
    options: dict[str, Any] = {"base": GovernedTask, "upstream": upstream, "shared": False}
    options["idempotent"] = True
    # Only tasks with this argument can take turns by it.
    if settings.fair_by is None:
        _without_tenant(declare, settings, options)

    @declare(name="governed.stamp", bind=True, ignore_result=True, **options)
    def governed_stamp(self: GovernedTask, tenant: str = "") -> None:
        stamp(settings, self.request.id, tenant)


def _without_tenant(declare: Declare, settings: Settings, options: dict[str, Any]) -> None:
    @declare(name="governed.noop", ignore_result=True, **options)
    def noop() -> None:
        """Nothing."""

    @declare(name="governed.mark", ignore_result=True, **options)
    def mark() -> None:
        _write(settings, task="mark", at=time.monotonic())

    @declare(name="governed.add", bind=True, **options)
    def add(self: GovernedTask, *values: Any) -> int:
        _write(settings, task="add", deferrals=self.request.governor.get("deferrals", 0))
        return _total(values)

    @declare(name="governed.call", bind=True, ignore_result=True, **options)
    def call(self: GovernedTask) -> None:
        call_upstream(settings, self.request.id, self.idempotency_key)


def _others(app: Celery, settings: Settings) -> None:
    """Tasks that keep the rate without a governor, as people do it."""
    declare: Declare = app.task
    rate = int(settings.rate.partition("/")[0])

    @declare(name="retry.stamp", bind=True, ignore_result=True, max_retries=None, shared=False)
    def retry_stamp(self: Task, tenant: str = "") -> None:
        """Counts calls in a second; one too many tries again in the next."""
        client = _redis(settings.redis_url, os.getpid())
        now = time.time()
        counter = f"rate:{int(now)}"
        taken = client.incr(counter)
        client.expire(counter, 5)
        if taken > rate:
            raise self.retry(countdown=1 - now % 1)
        stamp(settings, self.request.id, tenant)

    try:
        from celery_heimdall import HeimdallTask, RateLimit
    except ImportError:
        return
    options = {"rate_limit": RateLimit((rate, 1)), "key": "stamp"}

    @declare(
        name="heimdall.stamp", bind=True, ignore_result=True, base=HeimdallTask, heimdall=options,
        shared=False,
    )  # fmt: skip
    def heimdall_stamp(self: Task, tenant: str = "") -> None:
        stamp(settings, self.request.id, tenant)


@cache
def _redis(url: str, _process: int) -> Any:
    return redis.Redis.from_url(url)


def stamp(settings: Settings, task_id: str, tenant: str) -> None:
    """Record when a body began, as cheaply as possible: one write to a file that stays open."""
    line = f"{time.monotonic():.6f} {task_id} {tenant}\n"
    os.write(_stamps(settings.folder, os.getpid()), line.encode())


def call_upstream(settings: Settings, task_id: str, key: str) -> None:
    """Call the stand-in upstream once."""
    headers = {"X-Task-Id": task_id, "Idempotency-Key": key}
    url = f"{settings.upstream_url}/api/things"
    _client(os.getpid()).post(url, json={}, headers=headers).raise_for_status()


@cache
def _stamps(folder: str, _process: int) -> int:
    return os.open(f"{folder}/stamps", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@cache
def _client(_process: int) -> httpx.Client:
    """One for each process: a connection must not be shared over a fork."""
    return httpx.Client(timeout=10, trust_env=False)


def _total(values: Any) -> int:
    return sum(_total(value) if isinstance(value, list | tuple) else value for value in values)


def _write(settings: Settings, **facts: object) -> None:
    """One line of the ledger, in one write."""
    with (Path(settings.folder) / "ledger").open("a") as ledger:
        ledger.write(json.dumps(facts) + "\n")


if ENVIRONMENT in os.environ:
    app = build(Settings(**json.loads(os.environ[ENVIRONMENT])))
    # Made at its first call, a client is some tenths of a second late, beside calls that are not.
    signals.worker_process_init.connect(lambda **_: _client(os.getpid()), weak=False)
    signals.worker_ready.connect(
        lambda **_: print(f"-- ready {os.environ[NUMBER]}", flush=True), weak=False
    )
