"""Private servers and workers of one benchmark, and the frame every command shares."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import redis
from celery import Celery
from rich.console import Console
from rich.table import Table

from benchmarks.app import NUMBER, Settings, build
from governor.keys import DEFAULT_PREFIX, lot_key, state_key
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis
from tests.servers.rabbitmq import PrivateRabbitMQ, missing

Broker = Literal["redis", "rabbitmq"]
BROKERS: tuple[Broker, ...] = get_args(Broker)

_START_SECONDS = 30.0
_POLL_SECONDS = 0.005


class Fleet:
    """A private Redis, workers on it, and if asked for a stand-in upstream. Ends with its
    ``with`` block.

    Args:
        broker: Redis is the limiter's store in any case.
        settings: of the workers and the producer, without the URLs and the folder.
    """

    def __init__(self, *, broker: Broker = "redis", **settings: Any) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="governor-bench-"))
        self.folder = Path(folder)
        server = self._stack.enter_context(PrivateRedis(self.folder))
        self.redis = redis.Redis.from_url(server.url)
        self._stack.callback(self.redis.close)
        if broker == "rabbitmq":
            if reason := missing():
                raise RuntimeError(reason)
            own = self.folder / "rabbitmq"
            own.mkdir()
            settings["broker_url"] = self._stack.enter_context(PrivateRabbitMQ(own)).url()
        self.settings = Settings(redis_url=server.url, folder=folder, **settings)
        self._app: Celery | None = None

    @property
    def app(self) -> Celery:
        """The producer's side, with the settings as they are when first asked for."""
        if self._app is None:
            self._app = build(self.settings)
            self._stack.callback(self._app.close)
        return self._app

    def upstream(self, *, rate: float, burst: int) -> Path:
        """Start a stand-in upstream with this quota; its ledger."""
        ledger = self.folder / "upstream.jsonl"
        quota = {"kind": "bucket", "rate": rate, "burst": burst}
        config = {"apis": [{"name": "api", "quotas": [quota]}]}
        command = [sys.executable, "-m", "governor.demo.upstream", "--ledger", str(ledger)]
        log = self.folder / "upstream.log"
        self._stack.enter_context(ChildProcess([*command, "--config", json.dumps(config)], log=log))
        wait_until(lambda: ledger.exists() and bool(read_lines(ledger)), log)
        port = read_lines(ledger)[0]["port"]
        self.settings = replace(self.settings, upstream_url=f"http://127.0.0.1:{port}")
        return ledger

    def worker(
        self,
        *,
        pool: str = "prefork",
        queue: str = "celery",
        slots: int = 2,
        settings: Settings | None = None,
    ) -> ChildProcess:
        """Start a worker; it consumes its queue when this returns its main process."""
        number = sum(1 for _ in self.folder.glob("worker-*.log"))
        log = self.folder / f"worker-{number}.log"
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker"]
        command += ["-P", pool, "-c", str(slots), "-Q", queue, "-n", f"bench{number}@localhost"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        environment = {
            **os.environ,
            **(settings or self.settings).environment(),
            NUMBER: str(number),
        }
        process = self._stack.enter_context(ChildProcess(command, log=log, env=environment))
        # Celery says "ready" at INFO, and so would every task.
        waiting = f"-- ready {number}"
        wait_until(lambda: waiting in log.read_text(errors="replace"), log)
        return process

    def send(
        self, task: str, count: int, *args: object, queue: str = "celery", **options: object
    ) -> list[str]:
        """Publish ``count`` tasks over one connection; their ids."""
        with self.app.producer_or_acquire() as producer:
            signature = self.app.tasks[task].s(*args)
            options |= {"producer": producer, "queue": queue}
            return [signature.apply_async(**options).id for _ in range(count)]

    def queued(self) -> int:
        """Messages in the default queue that no worker has taken."""
        if not self.settings.broker_url:
            return int(self.redis.llen("celery"))
        with self.app.connection_or_acquire() as connection:
            channel = connection.default_channel
            return int(channel.queue_declare("celery", passive=True).message_count)

    def drained(self, *queues: str) -> bool:
        """Tell whether the queues of a Redis broker are empty and every message is acknowledged."""
        return not (self.redis.exists(*(queues or ("celery",)), "unacked"))

    def parked(self) -> int:
        """Tasks in the parking lot, and released ones that have not ended."""
        waiting = self.redis.hget(state_key(DEFAULT_PREFIX, "api"), "lot")
        return int(waiting or 0) + self.redis.zcard(lot_key(DEFAULT_PREFIX, "api", "out"))

    def ledger(self, task: str) -> list[dict[str, Any]]:
        """Read what the bodies wrote."""
        return [x for x in read_lines(self.folder / "ledger") if x.get("task") == task]

    def stats(self, what: str) -> int:
        """A counter summed over upstreams and workers."""
        total = 0
        for path in self.folder.glob("stats.*.json"):
            snapshot = json.loads(path.read_text())
            total += snapshot.get(what, 0)
            total += sum(counts.get(what) or 0 for counts in snapshot["upstreams"].values())
        return total

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._app is not None:
            # Celery's results unsubscribe when they are collected, after their server has ended.
            self._app.backend.result_consumer.subscribed_to.clear()
        self._stack.close()


def wait_until(look: Callable[[], bool], log: Path | None = None, timeout: float = 120) -> None:
    """Look again and again until it is so.

    Raises:
        TimeoutError: it was not within ``timeout`` seconds; carries the end of ``log``.
    """
    deadline = time.monotonic() + timeout
    while not look():
        if time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
            raise TimeoutError(f"It did not happen within {timeout:g} s. {words}")
        time.sleep(_POLL_SECONDS)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines, without a last one that is still being written."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main(
    doc: str | None,
    sizes: Mapping[str, int],
    measure: Callable[..., dict[str, Any]],
    bars: Callable[[dict[str, Any]], Mapping[str, bool]],
    *,
    quick: Mapping[str, int] | None = None,
    tables: Callable[[Mapping[str, Any]], Iterable[Table]] | None = None,
    parts: Sequence[str] = (),
) -> None:
    """Parse the command line, measure, print, and end with 1 when a bar is missed.

    Args:
        sizes: options and their defaults, given to ``measure`` by name.
        quick: the sizes of ``--quick``, a run that only shows that everything works.
        tables: how the record is shown; name by name otherwise.
        parts: what may be chosen by name, given to ``measure`` as ``parts``; all by default.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, help=f"default {default}")
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help="small sizes, poor figures")
    if parts:
        known = f"{', '.join(parts)}; all by default"
        parser.add_argument("parts", nargs="*", choices=[*parts, []], metavar="part", help=known)
    given = vars(parser.parse_args())
    chosen = given.pop("parts", None) or parts
    as_json = given.pop("json")
    defaults = {**sizes, **(quick or {})} if given.pop("quick", False) else sizes
    options = {n: size if given[n] is None else given[n] for n, size in defaults.items()}
    load = os.getloadavg()[0]
    figures = measure(**({"parts": chosen} if parts else {}), **options)
    verdicts = dict(bars(figures))
    record = {**options, "load_before": round(load, 2), **figures, "bars": verdicts}
    if as_json:
        print(json.dumps(record))
    elif tables is not None:
        show(tables(record), verdicts)
    else:
        _print(record)
    sys.exit(0 if all(verdicts.values()) else 1)


def show(tables: Iterable[Table], verdicts: Mapping[str, bool]) -> None:
    """Print tables, and what became of each bar."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in tables:
        console.print(table, "")
    for name, met in verdicts.items():
        console.print(f"[green]met[/]    {name}" if met else f"[red]MISSED[/] {name}")


def _print(record: Mapping[str, Any], indent: str = "") -> None:
    for name, value in record.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}:")
            _print(value, indent + "  ")
        else:
            shown = {True: "met", False: "MISSED"}[value] if isinstance(value, bool) else value
            print(f"{indent}{name}: {shown}")
