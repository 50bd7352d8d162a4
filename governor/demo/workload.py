"""The demo's Celery application: what a user of the governor writes.

``celery -A governor.demo.worker worker`` starts it; :mod:`governor.demo.run` publishes to it.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

import httpx
import tenacity
from celery import Celery

from governor import GovernedTask, Governor, Limit, Retry, Upstream
from governor.demo import scenario
from governor.errors import ConfigurationError

ENVIRONMENT = "GOVERNOR_DEMO_SETTINGS"
QUEUE = "governor-demo"

# Celery ships no types; a decorator without them would take those of the tasks away.
Declare = Callable[..., Callable[[Callable[..., None]], object]]


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """The settings that the workers of one run share. Times are seconds.

    Attributes:
        prefix: of everything the run keeps in Redis.
        folder: an existing folder for statistics, spilled dead letters and marks.
        rate: calls a second of the one uniform upstream; ``None`` for the mixed scenario.
        burst: of that upstream.
    """

    redis_url: str
    database_url: str
    upstream_url: str
    prefix: str
    folder: str
    rate: float | None = None
    burst: int = 1

    def write(self) -> Path:
        """Save them in the folder; the path is what the workers' environment names."""
        path = Path(self.folder) / "settings.json"
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def from_environment(cls) -> Self:
        """The settings the environment names.

        Raises:
            ConfigurationError: it names none.
        """
        if ENVIRONMENT not in os.environ:
            raise ConfigurationError(f"{ENVIRONMENT} is not set: start this with `governor demo`")
        return cls(**json.loads(Path(os.environ[ENVIRONMENT]).read_text()))


# The upstreams, declared as their owners publish them.
STRIPE = Upstream("stripe", Limit("25/s", burst=25))

# GitHub counts a sliding minute: 60 at once and 840 a minute never make more than its 900.
GITHUB = Upstream("github", Limit("840/min", burst=60))
GITHUB_CONTENT = Limit("60/min", burst=20, name="content")

SHOPIFY = Upstream("shopify", Limit("2/s", burst=40, per="shop"))


class ServerFailed(httpx.HTTPStatusError):
    """The upstream answered 500 or 502: it failed, and may succeed if called again."""


RETRY = Retry(
    on=(httpx.TransportError, ServerFailed),
    attempts=6,
    wait=tenacity.wait_random_exponential(multiplier=0.25, max=2),
)


def build(settings: WorkloadSettings) -> Celery:
    """The application with its tasks, governed."""
    app = Celery("governor-demo", broker=settings.redis_url)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"global_keyprefix": settings.prefix},
        # Nobody steers these workers but the demo; fewer connections, faster start.
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        governor_redis_url=settings.redis_url,
        governor_database_url=settings.database_url,
        governor_spill_dir=str(Path(settings.folder) / "spill"),
        governor_prefix=f"{settings.prefix}gov",
        governor_stats_file=str(Path(settings.folder) / "stats"),
    )
    Governor(app)
    if settings.rate is None:
        _mixed_tasks(app, settings)
    else:
        _uniform_task(app, settings, settings.rate)
    return app


def limits(settings: WorkloadSettings) -> Mapping[str, Sequence[Limit]]:
    """Every leaky bucket that each task type must pass."""
    if settings.rate is not None:
        return {scenario.UNIFORM: _buckets(uniform_upstream(settings.rate, settings.burst))}
    return {
        scenario.CHARGE: _buckets(STRIPE),
        scenario.PAYOUT: _buckets(STRIPE),
        scenario.SYNC: _buckets(GITHUB),
        scenario.COMMENT: [*_buckets(GITHUB), GITHUB_CONTENT],
        scenario.INVENTORY: _buckets(SHOPIFY),
    }


def _buckets(upstream: Upstream) -> list[Limit]:
    return [limit for limit in upstream.limits if isinstance(limit, Limit)]


def uniform_upstream(rate: float, burst: int) -> Upstream:
    """The one upstream of a run with a given rate."""
    return Upstream("api", Limit(f"{rate:f}/s", burst=burst))


def _mixed_tasks(app: Celery, settings: WorkloadSettings) -> None:
    declare: Declare = app.task

    @declare(
        name=scenario.CHARGE,
        bind=True,
        base=GovernedTask,
        upstream=STRIPE,
        idempotent=True,
        retry=RETRY,
    )
    def create_charge(self: GovernedTask, account: str, amount: int, card: str) -> None:
        _call(self, settings, "stripe/charges", account, amount=amount, card=card)

    # Not idempotent: at most once, whatever dies.
    @declare(name=scenario.PAYOUT, bind=True, base=GovernedTask, upstream=STRIPE)
    def send_payout(self: GovernedTask, account: str, amount: int, dies: bool = False) -> None:
        if dies and _first_time(Path(settings.folder) / "crashed"):
            _kill_this_process_in(0.1)
            _call(self, settings, "stripe/payouts", account, amount=amount, work_ms=400)
        else:
            _call(self, settings, "stripe/payouts", account, amount=amount)

    @declare(
        name=scenario.SYNC,
        bind=True,
        base=GovernedTask,
        upstream=GITHUB,
        idempotent=True,
        retry=RETRY,
    )
    def sync_issues(self: GovernedTask, repo: str, page: int) -> None:
        _call(self, settings, "github/issues", "app", repo=repo, page=page)

    @declare(
        name=scenario.COMMENT,
        bind=True,
        base=GovernedTask,
        upstream=GITHUB,
        limits=(GITHUB_CONTENT,),
    )
    def create_comment(self: GovernedTask, repo: str, text: str) -> None:
        _call(self, settings, "github/comments", "app", repo=repo, text=text)

    @declare(
        name=scenario.INVENTORY,
        bind=True,
        base=GovernedTask,
        upstream=SHOPIFY,
        idempotent=True,
        retry=RETRY,
    )
    def update_inventory(self: GovernedTask, shop: str, sku: str, quantity: int) -> None:
        _call(self, settings, "shopify/inventory", shop, sku=sku, quantity=quantity)


def _uniform_task(app: Celery, settings: WorkloadSettings, rate: float) -> None:
    declare: Declare = app.task

    @declare(
        name=scenario.UNIFORM,
        bind=True,
        base=GovernedTask,
        upstream=uniform_upstream(rate, settings.burst),
        idempotent=True,
        retry=RETRY,
    )
    def call(self: GovernedTask, number: int) -> None:
        _call(self, settings, "api/things", "app", number=number)


def _call(
    task: GovernedTask, settings: WorkloadSettings, path: str, account: str, **body: object
) -> None:
    """Call the stand-in upstream.

    Raises:
        ServerFailed: 500 or 502, worth another attempt.
        httpx.HTTPStatusError: 429 and 503, which the governor knows, and every other 4xx.
        httpx.TransportError: no answer.
    """
    headers = {
        "X-Task-Id": task.request.id,
        "X-Account": account,
        "Idempotency-Key": task.idempotency_key,
    }
    client = _client(os.getpid())
    response = client.post(f"{settings.upstream_url}/{path}", json=body, headers=headers)
    if response.status_code in {500, 502}:
        raise ServerFailed(
            f"{path} answered {response.status_code}", request=response.request, response=response
        )
    response.raise_for_status()


@cache
def _client(_process: int) -> httpx.Client:
    """One for each process: a connection must not be shared over a fork."""
    # An empty context: the stand-in speaks plain HTTP, and loading the certificate authorities
    # would make each process's first call 50 ms late.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(timeout=10, trust_env=False, verify=context)


def _first_time(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill_this_process_in(seconds: float) -> None:
    """SIGKILL, as the kernel does when memory runs out."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
