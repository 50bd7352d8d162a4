"""One run of the main job: start everything, publish, wait until drained, balance, end everything.

Redis server, upstream and workers are real processes. Each of them ends with us, however we
end: see :mod:`governor.testing.child_process`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import kombu.exceptions
import redis
from celery import Celery

from governor.clock import SECOND
from governor.deadletter.engine import bounded_engine
from governor.deadletter.schema import upgrade
from governor.demo import scenario
from governor.demo.broker import BrokerKeys
from governor.demo.database import default_database
from governor.demo.ledger import CallLedger, Tally, read_dead_rows, read_producer_log, tally
from governor.demo.scenario import PlannedTask
from governor.demo.stats import DemoStats, read_stats
from governor.demo.watch import Show, Watch
from governor.demo.workload import ENVIRONMENT, QUEUE, WorkloadSettings, build, limits
from governor.errors import ConfigurationError, GovernorError
from governor.governor import Governor
from governor.policy.settlement import Settlement
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis

POOLS = ("prefork", "threads", "gevent", "solo")
WORKERS = 2
POOL_SLOTS = 2

_START_SECONDS = 20.0
_POLL_SECONDS = 0.2
_SILENCE_SECONDS = 5.0  # the broker is empty and tasks are missing: they will not come
_STOP_SECONDS = 15.0
_LOG_SHOWN = 3000

# Celery prefers these to what the application says: the demo must not meet a user's own broker.
_FOREIGN = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
)


class DemoError(GovernorError):
    """A process of the demo did not start, or ended too early."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options.

    Attributes:
        rate: calls a second of one uniform upstream; ``None`` for the mixed scenario.
        burst: of that upstream; a tenth of the rate, and at least 2, when left out. With 1
            there is no room for the jitter of two calls on their way.
        redis_url, database_url: the user's own servers; else private ones.
    """

    tasks: int = 1000
    rate: float | None = None
    burst: int | None = None
    pool: str = "prefork"
    redis_url: str | None = None
    database_url: str | None = None

    @property
    def uniform_burst(self) -> int:
        return self.burst or max(2, int((self.rate or 0) // 10))


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a run.

    Attributes:
        ideal: microseconds from first to last call with every limit used to the full.
        reasons: dead letters by reason.
    """

    tally: Tally
    ideal: int
    stats: DemoStats
    reasons: Mapping[str, int]
    database_url: str


def run(options: Options, show: Show) -> RunOutcome:
    """Do the main job once.

    Raises:
        ConfigurationError: something is missing on this machine; says what to install.
        DatabaseUnavailable: the database does not answer.
        DemoError: a process did not start or ended too early; carries its log.
    """
    _check_pool(options.pool)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    try:
        with ExitStack() as stack:
            return _run(options, show, stack)
    except (redis.RedisError, kombu.exceptions.OperationalError) as error:
        raise DemoError(f"Redis stopped answering: {error}") from error


def _run(options: Options, show: Show, stack: ExitStack) -> RunOutcome:
    planned = _plan(options)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="governor-demo-")))
    _check_redis_url(options.redis_url)
    redis_url = options.redis_url or stack.enter_context(PrivateRedis(folder)).url
    broker = BrokerKeys(redis_url, f"governor-demo-{uuid.uuid4().hex[:8]}:", QUEUE)
    stack.callback(broker.close)
    _check_redis(broker)
    database_url = options.database_url or stack.enter_context(default_database())
    engine = bounded_engine(database_url)
    stack.callback(engine.dispose)
    upgrade(engine)
    ledger = CallLedger(folder / "upstream.jsonl")
    watch = Watch(planned, ledger, engine, folder, show)
    watch.stage("starting")
    settings = WorkloadSettings(
        redis_url,
        database_url,
        _start_upstream(stack, options, folder, ledger),
        broker.prefix,
        str(folder),
        options.rate,
        options.uniform_burst,
    )
    ideal = scenario.ideal_micros(planned, limits(settings))
    stack.callback(broker.remove)
    # Before the workers start: on a small machine the producer would take the processor from
    # them, and the makespan would measure that.
    watch.stage("publishing")
    producer_log = folder / "producer.jsonl"
    app = build(settings)
    # The limiter lets an upstream it never saw earn its burst first. It sees these from now on.
    for upstream in watch.progress.planned:
        Governor.of(app).store.settle(Settlement(upstream))
    _publish(app, planned, producer_log, watch)
    workers = _start_workers(stack, options.pool, settings, folder)
    watch.stage("working")
    _wait_until_drained(watch, broker, workers, time.monotonic() + 30 + 1.5 * ideal / SECOND)
    watch.stage("stopping")
    _stop(workers)
    watch.look()
    published = read_producer_log(producer_log)
    rows = read_dead_rows(engine, [task.task_id for task in published])
    return RunOutcome(
        tally(published, ledger.calls, rows, broker.task_ids()),
        ideal,
        read_stats(folder),
        Counter(row.reason for row in rows),
        database_url,
    )


def _check_pool(pool: str) -> None:
    if pool == "gevent" and importlib.util.find_spec("gevent") is None:
        raise ConfigurationError(
            "--pool gevent: gevent is not installed. pip install 'celery-governor[gevent]'"
        )


def _check_redis_url(url: str | None) -> None:
    if url is not None and not url.startswith(("redis://", "rediss://")):
        raise ConfigurationError(
            f"--redis: {url.partition('//')[0]!r} is no Redis the broker can use. "
            "Write redis://HOST:PORT/NUMBER or rediss://HOST:PORT/NUMBER"
        )


def _check_redis(broker: BrokerKeys) -> None:
    try:
        broker.empty()
    except redis.RedisError as error:
        raise ConfigurationError(
            f"--redis: the server does not answer ({error}). Start it, correct the URL, "
            "or leave --redis out to use a private server"
        ) from error


def _plan(options: Options) -> list[PlannedTask]:
    if options.rate is not None:
        return scenario.plan_uniform(options.tasks)
    # Elsewhere the pool's process is the worker itself: killing it is another scenario.
    return scenario.plan_mixed(options.tasks, with_crash=options.pool == "prefork")


def _start_upstream(stack: ExitStack, options: Options, folder: Path, ledger: CallLedger) -> str:
    apis = (
        scenario.MIXED_APIS
        if options.rate is None
        else scenario.uniform_apis(options.rate, options.uniform_burst)
    )
    command = [sys.executable, "-m", "governor.demo.upstream", "--ledger", str(ledger.path)]
    command += ["--config", json.dumps({"seed": scenario.SEED, "apis": apis})]
    log = folder / "upstream.log"
    process = stack.enter_context(ChildProcess(command, log=log))
    deadline = time.monotonic() + _START_SECONDS
    while ledger.port is None:
        if not process.running or time.monotonic() > deadline:
            raise DemoError(f"The stand-in upstream did not start. Its log:\n{_tail(log)}")
        time.sleep(0.01)
        ledger.read()
    return f"http://127.0.0.1:{ledger.port}"


@dataclass(frozen=True, slots=True)
class _Worker:
    process: ChildProcess
    log: Path


def _start_workers(
    stack: ExitStack, pool: str, settings: WorkloadSettings, folder: Path
) -> Sequence[_Worker]:
    environment = os.environ | {ENVIRONMENT: str(settings.write())}
    workers = []
    for number in range(1, WORKERS + 1):
        command = [sys.executable, "-m", "celery", "-A", "governor.demo.worker", "worker"]
        command += ["-n", f"governor-demo-{number}@%h", "-P", pool, "-c", str(POOL_SLOTS)]
        command += ["-l", "warning", "--without-gossip", "--without-mingle"]
        command += ["--without-heartbeat"]
        if pool == "gevent":
            # Celery's loop for this pool fetches no more than its window each two seconds.
            command += ["--prefetch-multiplier", "100"]
        log = folder / f"worker-{number}.log"
        process = ChildProcess(command, log=log, env=environment)
        workers.append(_Worker(stack.enter_context(process), log))
    return workers


def _publish(app: Celery, planned: Sequence[PlannedTask], log: Path, watch: Watch) -> None:
    """Publish every task; the log gets a line for each one the broker has taken."""
    idempotent = {task.task: bool(app.tasks[task.task].idempotent) for task in planned}
    with log.open("a") as lines, app.producer_or_acquire() as producer:
        for number, task in enumerate(planned, 1):
            app.tasks[task.task].apply_async(
                kwargs=dict(task.kwargs), task_id=task.task_id, producer=producer
            )
            line = {
                "task_id": task.task_id,
                "task": task.task,
                "upstream": task.upstream,
                "idempotent": idempotent[task.task],
            }
            lines.write(json.dumps(line) + "\n")
            watch.progress.published = number
            if number % 100 == 0:
                watch.look()


def _wait_until_drained(
    watch: Watch, broker: BrokerKeys, workers: Sequence[_Worker], deadline: float
) -> None:
    """Return when every task succeeded or died and the broker is empty, or nothing moves.

    Raises:
        DemoError: a worker ended.
    """
    silent_since: float | None = None
    while True:
        for worker in workers:
            if not worker.process.running:
                raise DemoError(f"A worker ended too early. Its log:\n{_tail(worker.log)}")
        now = time.monotonic()
        finished = watch.look()
        if broker.empty():
            silent_since = silent_since or now
            patience = 0.0 if finished >= watch.progress.published else _SILENCE_SECONDS
            if now - silent_since >= patience:
                return
        else:
            silent_since = None
        if now > deadline:
            return
        time.sleep(_POLL_SECONDS)


def _stop(workers: Sequence[_Worker]) -> None:
    """Warm shutdown of all workers at once: what they hold goes back to the broker."""
    for worker in workers:
        worker.process.signal(signal.SIGTERM)
    for worker in workers:
        # Not stop(): a second SIGTERM would tell Celery to hurry.
        try:
            worker.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_SHOWN:].strip() or "(empty)"
