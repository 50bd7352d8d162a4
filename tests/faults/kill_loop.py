"""Kill workers and pool processes again and again while tasks of every kind run, and count.

::

    scripts/kill-loop --broker redis --pool prefork --seed 1 --tasks 3000
    scripts/kill-loop --plain …      # Celery alone: what the broker's transport loses by itself

Ends with 1 if a task was lost, a body that must not run twice did, or a death is not one row.

kombu takes a message off its Redis list first and notes it as unacknowledged a moment later. A
worker that is killed in between loses it, governed or not. ``MONITOR`` on the broker tells those
apart: the message was put on the list, is no longer there, and was never noted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import redis
from celery import Celery

from governor.deadletter.reading import Filters
from governor.testing.redis_server import PrivateRedis
from tests.faults.kill_ledger import KINDS, Account, Begun, account
from tests.integration.fleet import watched_dead_letters
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.worker_process import WorkerProcess

APP = "tests.faults.kill_app"
QUEUE = "celery"
WORKERS = 2
VISIBILITY = 12
"""Seconds after which a Redis broker hands out again what a dead worker had."""

CONF = {
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    "governor_claim_lease": 3,
}
QUIET = 90.0
"""Seconds in which nothing more ended: what has not ended by then never will."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        broker: ``redis`` or ``rabbitmq``.
        pool: ``prefork`` or ``threads``.
        seed: of the mixture of tasks and of the kills.
        tasks: how many are published.
        rate: so many a second.
        every: shortest and longest pause between two kills, in seconds.
        plain: Celery alone.
    """

    broker: str
    pool: str
    seed: int
    tasks: int
    rate: float = 60.0
    every: tuple[float, float] = (2.0, 5.0)
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one run."""

    plan: Plan
    account: Account
    kills: Counter[str]
    left: int
    seconds: float

    def __str__(self) -> str:
        plan, found = self.plan, self.account
        kills = f"{self.kills['worker']} workers + {self.kills['child']} children"
        broker = f"plain {plan.broker}" if plan.plain else plan.broker
        return (
            f"| {broker} | {plan.pool} | {plan.seed} | {kills} "
            f"| {found.published} | {found.succeeded} | {found.dead} | {found.repeated} "
            f"| {len(found.lost) - len(found.lost_by_broker)} | {len(found.lost_by_broker)} "
            f"| {len(found.doubled)} | {len(found.rows)} | {len(found.unexpected)} | {self.left} "
            f"| {self.seconds:.0f} |"
        )


HEADER = (
    "| broker | pool | seed | killed | published | succeeded | dead | repeated, may be | lost "
    "| lost by kombu | doubled | rows ≠ 1 | unexpected | left in broker | s |"
)


class Witness:
    """Follows each message on a Redis broker from outside.

    Args:
        url: the broker's.
    """

    _TAG = re.compile(r"delivery_tag\W+([0-9a-f-]{36})")
    _TASK = re.compile(r"\Wid\W+([0-9a-f-]{36})")

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._last: dict[str, str] = {}
        self._tasks: dict[str, str] = {}
        self._over = threading.Event()
        watching = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(watching,), daemon=True)
        self._thread.start()
        assert watching.wait(10)

    def unnoted(self) -> set[str]:
        """Task ids of messages that were put on the list, are not there, and were not noted."""
        listed = b"\n".join(self._client.lrange(QUEUE, 0, -1)).decode()
        return {
            self._tasks[tag]
            for tag, last in list(self._last.items())
            if last == "listed" and tag in self._tasks and tag not in listed
        }

    def left(self) -> int:
        """Messages that the broker hands out, now or later."""
        return int(self._client.llen(QUEUE)) + int(self._client.hlen("unacked"))

    def close(self) -> None:
        self._over.set()
        self._client.ping()  # a command, which the watching thread sees
        self._thread.join(10)
        self._client.close()

    def _watch(self, watching: threading.Event) -> None:
        with self._client.monitor() as monitor:
            watching.set()
            monitor.connection._sock.settimeout(None)
            while not self._over.is_set():
                self._note(monitor.next_command()["command"])

    def _note(self, command: str) -> None:
        name = command.split(" ", 1)[0].upper()
        if name in {"LPUSH", "RPUSH"}:
            tag, task = self._TAG.search(command), self._TASK.search(command)
            if tag and task:
                self._last[tag[1]] = "listed"
                self._tasks[tag[1]] = task[1]
        elif name in {"HSET", "HDEL"} and command.split(" ", 2)[1] == "unacked":
            self._last[command.split(" ", 3)[2]] = "noted" if name == "HSET" else "gone"


class Loop:
    """One run, its servers and workers.

    Args:
        plan: what to do.
        directory: for everything that is written.
        broker_url: an empty broker.
        limiter_url: an empty Redis that is not the broker.
        say: told how far it is.
    """

    def __init__(
        self, plan: Plan, directory: Path, broker_url: str, limiter_url: str,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._broker_url = broker_url
        self._directory = directory
        self._ledger = directory / "ledger"
        self._say = say
        database = f"sqlite:///{directory / 'dead.sqlite'}"
        self._env = {
            "LIMITER_URL": limiter_url,
            "DATABASE_URL": database,
            "SPILL_DIR": str(directory / "spill"),
            "LEDGER": str(self._ledger),
            "CONF": json.dumps(CONF),
            **({"PLAIN": "1"} if plan.plain else {}),
        }
        self._dead = watched_dead_letters(database)
        self._app = Celery("producer", broker=broker_url)
        self._app.conf.broker_transport_options = CONF["broker_transport_options"]
        self._witness = Witness(broker_url) if plan.broker == "redis" else None
        self._published: dict[str, str] = {}
        self._kills: Counter[str] = Counter()

    def run(self) -> Run:
        """Publish, kill, let it drain, and add up."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._dead.close)
            stack.callback(self._app.close)
            if self._witness is not None:
                stack.callback(self._witness.close)
            workers = [stack.enter_context(self._worker(number)) for number in range(WORKERS)]
            published = threading.Event()
            publisher = threading.Thread(target=self._publish, args=(published,), daemon=True)
            publisher.start()
            while not published.is_set() or len(self._open()) > self._plan.tasks // 20:
                time.sleep(self._chance.uniform(*self._plan.every))
                self._kill(workers)
                self._say(f"{len(self._published)} published, {len(self._open())} open, "
                          f"{self._kills.total()} kills")  # fmt: skip
            self._drain()
            unnoted = self._witness.unnoted() if self._witness is not None else set()
            for worker in workers:
                worker.terminate()
            begun, done = self._bodies()
            found = account(self._published, begun, done, self._rows(), unnoted=unnoted)
            return Run(self._plan, found, self._kills, self._left(), time.monotonic() - began)

    def _worker(self, number: int) -> WorkerProcess:
        return WorkerProcess(
            APP, self._broker_url, directory=self._directory, pool=self._plan.pool, concurrency=3,
            env=self._env, name=f"w{number}", ready_timeout=60,
        )  # fmt: skip

    def _publish(self, over: threading.Event) -> None:
        chance = random.Random(f"tasks {self._plan.seed}")
        names, shares = list(KINDS), [kind.share for kind in KINDS.values()]
        due = time.monotonic()
        for number in range(self._plan.tasks):
            name = chance.choices(names, shares)[0]
            task_id = str(uuid4())
            seconds = chance.choice((0, 0.005, 0.02, 0.1))
            self._published[task_id] = name
            self._app.send_task(
                name, (number, f"tenant {number % 3}", seconds), task_id=task_id, queue=QUEUE
            )
            due += 1 / self._plan.rate
            time.sleep(max(0.0, due - time.monotonic()))
        over.set()

    def _kill(self, workers: list[WorkerProcess]) -> None:
        worker = self._chance.choice(workers)
        children = _children(worker.pid) if self._plan.pool == "prefork" else []
        if children and self._chance.random() < 0.5:
            self._kills["child"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(children), signal.SIGKILL)
            return
        self._kills["worker"] += 1
        worker.kill()
        worker.start()

    def _bodies(self) -> tuple[list[Begun], set[str]]:
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        read = [json.loads(line) for line in lines]
        begun = [Begun(x["id"], x["attempt"]) for x in read if x["what"] == "begun"]
        return begun, {x["id"] for x in read if x["what"] == "done"}

    def _rows(self) -> list[tuple[str, Any]]:
        rows = self._dead.list(Filters(), 10 * self._plan.tasks)
        return [(row.task_id or f"a message without id, row {row.id}", row.reason) for row in rows]

    def _open(self) -> set[str]:
        """Tasks that are published and have not ended."""
        _, done = self._bodies()
        dead = {task for task, _ in self._rows()}
        missing = set(self._published) - done - dead
        return missing - self._witness.unnoted() if self._witness is not None else missing

    def _drain(self) -> None:
        """Wait until every task has ended, or nothing more ends; and then for the copies that a
        Redis broker still has of what dead workers had: a forbidden double would be one of them."""
        left, since = len(self._open()), time.monotonic()
        while left and time.monotonic() < since + QUIET:
            time.sleep(0.5)
            now = len(self._open())
            if now != left:
                left, since = now, time.monotonic()
        deadline = time.monotonic() + 3 * VISIBILITY
        while self._left() and time.monotonic() < deadline:
            time.sleep(0.5)

    def _left(self) -> int:
        """Messages that the broker still has."""
        if self._witness is not None:
            return self._witness.left()
        with self._app.connection_for_read() as connection:
            declared = connection.default_channel.queue_declare(QUEUE, passive=True)
            return int(declared.message_count)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _servers(plan: Plan, directory: Path) -> Iterator[str]:
    made = directory / "broker"
    made.mkdir()
    if plan.broker == "redis":
        with PrivateRedis(made, appendonly=True) as server:
            yield server.url
    else:
        with PrivateRabbitMQ(made) as rabbitmq:
            yield rabbitmq.url()


def run(plan: Plan, directory: Path, say: Callable[[str], None] = print) -> Run:
    """Carry out a plan on servers of its own."""
    (directory / "limiter").mkdir()
    with (
        PrivateRedis(directory / "limiter", appendonly=True) as limiter,
        contextlib.contextmanager(_servers)(plan, directory) as broker_url,
    ):
        return Loop(plan, directory, broker_url, limiter.url, say).run()


def main() -> int:
    """Carry out what the command line asks for, and print one row for each run."""
    parser = argparse.ArgumentParser(
        prog="scripts/kill-loop", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--broker", action="append", choices=("redis", "rabbitmq"))
    parser.add_argument("--pool", action="append", choices=("prefork", "threads"))
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=60.0, help="tasks published in a second")
    parser.add_argument("--plain", action="store_true", help="Celery alone, for comparison")
    parser.add_argument("--keep", type=Path, help="folder for logs and ledgers")
    asked = parser.parse_args()
    print(HEADER, flush=True)
    clean = True
    for broker in asked.broker or ("redis", "rabbitmq"):
        for pool in asked.pool or ("prefork", "threads"):
            for seed in asked.seed or (1, 2, 3):
                plan = Plan(broker, pool, seed, asked.tasks, asked.rate, plain=asked.plain)
                clean &= _show(plan, asked.keep)
    return 0 if clean else 1


def _show(plan: Plan, keep: Path | None) -> bool:
    with TemporaryDirectory(prefix="kill-loop-") as temporary:
        folder = Path(temporary)
        if keep is not None:
            folder = keep / f"{plan.broker}-{plan.pool}-{plan.seed}{'-plain' * plan.plain}"
            folder.mkdir(parents=True)
        done = run(plan, folder, lambda text: print(text, file=sys.stderr, flush=True))
    print(done, flush=True)
    for name, tasks in done.account.faults().items():
        print(f"  {name}: {', '.join(tasks)}", flush=True)
    return plan.plain or not (done.account.faults() or done.left)


if __name__ == "__main__":
    sys.exit(main())
