"""Tasks that stay parked: how fast they get there, and what they take there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.fleet import Broker, Fleet, wait_until
from benchmarks.parking.probes import Messages, Stamps, processor_seconds, resident, rounded
from governor.clock import SECOND
from governor.keys import DEFAULT_PREFIX, lot_key
from governor.stores.redis.store import RedisStore
from governor.testing.child_process import ChildProcess

_IDLE_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_MONTH = 30 * 86_400.0
_LONG_AGO = "2000-01-01T00:00:00+00:00"
_WARM = 100
"""Tasks parked before anything is compared, so that scripts and modules are loaded."""


def parked(tasks: int) -> dict[str, Any]:
    """One real worker parks them all: an upstream of one call an hour."""
    with Fleet(rate="1/h", burst=1, max_wait=_MONTH) as fleet:
        worker = fleet.worker()
        messages = Messages(fleet, "governed.stamp")
        time.sleep(_SETTLE_SECONDS)
        fresh = resident(worker)
        messages.send(range(1, 1 + _WARM))
        wait_until(lambda: fleet.drained() and fleet.parked() > 0)
        time.sleep(_SETTLE_SECONDS)
        warm = resident(worker)
        waiting = fleet.parked()
        bytes_before = _used(fleet)
        messages.send(range(1_000, 1_000 + tasks), to="shelf")
        broker_bytes = (_used(fleet) - bytes_before) / tasks
        fleet.redis.rename("shelf", "celery")
        wait_until(lambda: fleet.parked() >= waiting + tasks, timeout=60 + tasks / 150)
        wait_until(fleet.drained)
        time.sleep(_SETTLE_SECONDS)
        full = resident(worker)
        bytes_after = _used(fleet)
        payload = _payload(fleet)
        idle = processor_seconds(worker)
        time.sleep(_IDLE_SECONDS)
        idle = processor_seconds(worker) - idle
        return rounded({
            "tasks": tasks,
            "rss_ready_mb": fresh,
            "rss_growth_mb": full - fresh,
            "rss_growth_after_warm_up_mb": full - warm,
            "idle_cpu_share": idle / _IDLE_SECONDS,
            "message_bytes": payload,
            "redis_bytes_per_task": (bytes_after - bytes_before) / tasks,
            "redis_bytes_beyond_message": (bytes_after - bytes_before) / tasks - payload,
            "redis_bytes_in_broker_queue": broker_bytes,
            "load": os.getloadavg()[0],
        })  # fmt: skip


def parked_from(broker: Broker, tasks: int) -> dict[str, Any]:
    """Measure how fast one real worker parks them."""
    with Fleet(broker=broker, rate="1/h", burst=1, max_wait=_MONTH) as fleet:
        worker = fleet.worker()
        fleet.send("governed.stamp", _WARM)
        wait_until(lambda: fleet.parked() == _WARM)
        return _emptied(fleet, worker, "governed.stamp", tasks)


def taken(broker: Broker, tasks: int) -> dict[str, Any]:
    """Measure what Celery alone can do: a worker without a governor takes messages that have
    expired, and acknowledges them.

    From RabbitMQ only its processor time says something. Most of the time it stands still: its
    prefetch window is full, and its acknowledgements wait for its loop, which nothing wakes.
    """
    with Fleet(broker=broker, governed=False) as fleet:
        # RabbitMQ itself drops what was published with an expiry.
        headers = {"expires": _LONG_AGO}
        return _emptied(fleet, fleet.worker(), "plain.stamp", tasks, headers=headers)


def _emptied(
    fleet: Fleet, worker: ChildProcess, task: str, tasks: int, **options: object
) -> dict[str, Any]:
    """Measure how fast a worker empties a queue of so many messages, but for the few that it
    has taken when it is empty."""
    with _halted(worker):
        fleet.send(task, tasks, **options)
        spent = processor_seconds(worker)
    began = time.monotonic()

    def done() -> bool:
        time.sleep(_LOOK_SECONDS)
        return not fleet.queued()

    wait_until(done, timeout=60 + tasks / 150)
    seconds = time.monotonic() - began
    spent = processor_seconds(worker) - spent
    return rounded({
        "per_second": tasks / seconds,
        "worker_cpu_us_per_task": 1e6 * spent / tasks,
    })  # fmt: skip


@contextmanager
def _halted(worker: ChildProcess) -> Iterator[None]:
    """The worker's main process stands still, and takes no message."""
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


def countdown(tasks: int, full: int) -> dict[str, Any]:
    """The same tasks with Celery's own ``countdown=3600`` and a worker without a governor.

    Args:
        full: how many tasks the figures are scaled to.
    """
    with Fleet(governed=False) as fleet:
        worker = fleet.worker()
        time.sleep(_SETTLE_SECONDS)
        fresh = resident(worker)
        bytes_before = _used(fleet)
        with fleet.app.producer_or_acquire() as producer:
            signature = fleet.app.tasks["plain.stamp"].s()
            for _ in range(tasks):
                signature.apply_async(producer=producer, countdown=3600)
        wait_until(
            lambda: not fleet.redis.exists("celery") and fleet.redis.hlen("unacked") == tasks
        )
        time.sleep(_SETTLE_SECONDS)
        growth = resident(worker) - fresh
        idle = processor_seconds(worker)
        time.sleep(_IDLE_SECONDS)
        idle = processor_seconds(worker) - idle
        return rounded({
            "tasks": tasks,
            "rss_growth_mb": growth,
            "rss_growth_mb_scaled": growth * full / tasks,
            "idle_cpu_share": idle / _IDLE_SECONDS,
            "redis_bytes_per_task": (_used(fleet) - bytes_before) / tasks,
        })  # fmt: skip


def _used(fleet: Fleet) -> int:
    return int(fleet.redis.info("memory")["used_memory"])


def _payload(fleet: Fleet) -> float:
    """Mean length of the messages in the lot."""
    entries = fleet.redis.hrandfield(lot_key(DEFAULT_PREFIX, "api", "lot"), 100)
    store = RedisStore(fleet.settings.redis_url, timeout=5 * SECOND)
    found = [one for entry in entries for one in store.lots.find("api", entry.decode())]
    store.close()
    lengths = [len(one.payload) for one in found]
    return sum(lengths) / len(lengths)


def plain_rate(tasks: int) -> float:
    """Tasks a second of two workers without a governor."""
    with Fleet(governed=False) as fleet:
        messages = Messages(fleet, "plain.stamp")
        messages.send(range(1, 1 + tasks), to="shelf")
        for _ in range(2):
            fleet.worker()
        stamps = Stamps(fleet)
        fleet.redis.rename("shelf", "celery")
        wait_until(lambda: stamps.look() >= tasks)
        return (tasks - 1) / stamps.span()
