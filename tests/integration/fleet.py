"""Real workers on the tests' governed app, and what can be seen of them from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis
from celery import Celery

from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.reading import Filters
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.rows import DeadLetter
from governor.demo.ledger import JsonLines
from governor.keys import DEFAULT_PREFIX, state_key
from governor.policy.settlement import Settlement
from governor.stores.redis.store import RedisStore
from tests.servers.worker_process import ROOT, WorkerProcess

T = TypeVar("T")
MODULE = "tests.integration.governed_app"
PATIENT = 10
"""Seconds a test's own look at a server may take."""


class Fleet:
    """Workers of one app, a producer that knows no governor, the ledger and the dead letters.

    Args:
        conf: further Celery configuration of the workers.
        module: of their app.
        backend_url: of results; the limiter's Redis by default.
        env: ``RATE`` and ``BURST`` of the upstream ``api``.
    """

    def __init__(
        self,
        directory: Path,
        broker_url: str,
        limiter_url: str,
        database_url: str,
        *,
        conf: dict[str, Any] | None = None,
        module: str = MODULE,
        backend_url: str | None = None,
        **env: str,
    ) -> None:
        self.directory = directory
        self.broker_url = broker_url
        self.limiter_url = limiter_url
        self.backend_url = backend_url or limiter_url
        self.module = module
        self._ledger = directory / "ledger"
        self._env = {
            "LIMITER_URL": limiter_url,
            "DATABASE_URL": database_url,
            "SPILL_DIR": str(directory / "spill"),
            "LEDGER": str(self._ledger),
            "CONF": json.dumps({"governor_stats_file": str(directory / "stats"), **(conf or {})}),
            **env,
        }
        self._stack = ExitStack()
        self.app = Celery("producer", broker=broker_url, backend=self.backend_url)
        self.app.conf.broker_transport_options = (conf or {}).get("broker_transport_options", {})
        self.dead_letters = watched_dead_letters(database_url)
        self._stack.callback(self.dead_letters.close)
        self._stack.callback(self.app.close)
        self._stack.callback(self._forget_results)

    def worker(self, pool: str = "prefork", **options: Any) -> WorkerProcess:
        """Start a worker of two pool slots; it is ready when this returns."""
        return self._stack.enter_context(
            WorkerProcess(
                self.module,
                self.broker_url,
                directory=self.directory,
                pool=pool,
                backend_url=self.backend_url,
                env=self._env,
                **options,
            )
        )

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Publish a task by name, as a producer that has never heard of the governor."""
        return self.app.send_task(f"{self.module}.{task}", args, **options)

    def signature(self, task: str, *args: Any) -> Any:
        return self.app.signature(f"{self.module}.{task}", args)

    def ledger(self, task: str | None = None) -> list[dict[str, Any]]:
        """What the bodies wrote, in order."""
        lines = JsonLines(self._ledger).read()
        return [x for x in lines if task is None or x["task"] == f"{self.module}.{task}"]

    def dead(self) -> list[DeadLetter]:
        return list(self.dead_letters.list(Filters(), 1000))

    def stats(self, what: str) -> int:
        """A counter summed over upstreams and workers, at most half a second old: wait for it."""
        total = 0
        for path in self.directory.glob("stats.*.json"):
            snapshot = json.loads(path.read_text())
            if what in snapshot:
                total += snapshot[what]
            total += sum(u.get(what) or 0 for u in snapshot["upstreams"].values())
        return total

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``governor -A <the workers' app> …`` and return what it printed."""
        env = os.environ | self._env
        env |= {"CELERY_BROKER_URL": self.broker_url, "PYTHONPATH": str(ROOT)}
        governor = Path(sys.executable).with_name("governor")
        return subprocess.run(
            [governor, "-A", self.module, *arguments],
            env=env, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def close(self) -> None:
        self._stack.close()

    def _forget_results(self) -> None:
        """Celery's results unsubscribe when they are collected, and would connect for it again."""
        results = self.app.backend.result_consumer
        results.stop()
        results.subscribed_to.clear()


def watched_dead_letters(database_url: str) -> SqlDeadLetters:
    """The dead letters of a new database, for a test that has time to wait for a lock."""
    engine = bounded_engine(database_url, timeout=PATIENT)
    schema.upgrade(engine)
    return SqlDeadLetters(engine, redact=str, timeout=PATIENT)


def pause_upstream(limiter_url: str, upstream: str, seconds: int) -> None:
    """From now on, and for so long, every call of the upstream waits."""
    store = RedisStore(limiter_url, timeout=PATIENT * SECOND)
    store.settle(Settlement(upstream, pause=seconds * SECOND))
    store.close()


def wait_until_paused(limiter_url: str, upstream: str) -> None:
    """Wait until the limiter knows that the upstream said "not now"."""
    with redis.Redis.from_url(limiter_url) as client:
        wait_until(lambda: client.hexists(state_key(DEFAULT_PREFIX, upstream), "pause"))


def assert_within_limit(
    calls: list[dict[str, Any]], *, burst: int, rate: float, lost: int = 0
) -> None:
    """No window of any length W saw more calls than is guaranteed: burst + rate × (W + late), and
    one more for the edges. A body begins at most ``governor_grace`` after its slot as its
    worker knows it, and a worker hears of a slot at most ``governor_timeout`` late.

    Args:
        lost: further calls that a loss of the limiter's state may cost.
    """
    late = 0.05 + 0.2
    moments = sorted(call["at"] for call in calls)
    for i, start in enumerate(moments):
        for j in range(i, len(moments)):
            window = moments[j] - start
            allowed = burst + rate * (window + late) + 1 + lost
            assert j - i + 1 <= allowed, f"{j - i + 1} calls in {window:.3f} s"


@contextmanager
def fleet(*args: Any, **kwargs: Any) -> Iterator[Fleet]:
    found = Fleet(*args, **kwargs)
    try:
        yield found
    finally:
        found.close()


def wait_until(look: Callable[[], T], enough: Callable[[T], bool] = bool, timeout: float = 30) -> T:
    """Look again and again until what is seen is enough.

    Raises:
        AssertionError: it was not, within ``timeout`` seconds; names what was seen last.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if enough(seen):
            return seen
        assert time.monotonic() < deadline, f"still {seen!r} after {timeout} s"
        time.sleep(0.02)
