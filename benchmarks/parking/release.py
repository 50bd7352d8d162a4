"""The time of the release script: the store alone, and the server's own account."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import redis

from benchmarks.parking.probes import rounded
from governor.clock import SECOND
from governor.policy.limits import Limit, Rule
from governor.policy.parking_values import Arrival, Group, Lane, ReleaseAsk
from governor.stores.redis.store import RedisStore
from governor.testing.redis_server import PrivateRedis

BATCH = 100
_ROUND = 20
"""Batches of one lot before another has its turn."""

_FAST = "1000000/s"
_LIMITS: tuple[Rule, ...] = (Limit(_FAST, burst=1_000_000),)
_OWN: tuple[Rule, ...] = (*_LIMITS, Limit("100000/s", burst=100_000, per="account"))


def _payload(number: int) -> bytes:
    """About as long as a message of Celery without arguments, and like none before it: equal ones
    would be one string to the script."""
    return Random(number).randbytes(300).hex().encode()


class _Lot:
    """An upstream with so many lanes, equally long.

    Args:
        own: each lane has a limit of its own, with ``per=``, as well.
    """

    def __init__(self, store: RedisStore, name: str, tasks: int, lanes: int, *, own: bool) -> None:
        self._store = store
        self._name = name
        limits = _OWN if own else _LIMITS
        self._groups = (Group("g", tuple((rule.key, rule) for rule in limits)),)
        self._left: tuple[str, ...] = ()
        self._numbers: Iterator[int] = iter(range(tasks))
        made = [
            Lane("g", tuple(f"{r.key}:{n:011}" if r.per else r.key for r in limits), f"{n:011}")
            for n in range(lanes)
        ]
        costs = (1,) * len(limits)
        self.park_us = self._park([
            Arrival(f"{name}-{n:036}", made[n % lanes], costs, _payload(n)) for n in range(tasks)
        ])  # fmt: skip

    def _park(self, arrivals: list[Arrival]) -> float:
        began = time.perf_counter()
        for at in range(0, len(arrivals), 200):
            self._store.lots.park(self._name, arrivals[at : at + 200])
        return 1e6 * (time.perf_counter() - began) / len(arrivals)

    def release(self) -> int:
        """One batch; how many were released."""
        token = f"{self._name}.{next(self._numbers)}"
        ask = ReleaseAsk(
            self._name, self._groups, BATCH, 0, 30 * SECOND, token, left=self._left
        )  # fmt: skip
        released = self._store.lots.release(ask)
        self._left = tuple(ticket.entry for ticket in released.tickets)
        return len(self._left)


def release(lot: int) -> dict[str, Any]:
    """Tasks a second of the script, from lots of ``lot`` tasks in few and many lanes, in turns."""
    few, many = 10, lot // 10
    with (
        tempfile.TemporaryDirectory(prefix="governor-bench-") as folder,
        PrivateRedis(Path(folder)) as server,
    ):
        client = redis.Redis.from_url(server.url)
        store = RedisStore(server.url, timeout=5 * SECOND)
        lots = {
            f"{few} lanes": _Lot(store, "few", lot, few, own=False),
            f"{many} lanes": _Lot(store, "many", lot, many, own=False),
            f"{many} lanes, each with its limit": _Lot(store, "own", lot, many, own=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in lots}
        walls: dict[str, list[float]] = {name: [] for name in lots}
        # A third of the lot, so that it is still full when the last batch goes.
        for number in range(max(3, lot // 3 // (BATCH * _ROUND))):
            turns = list(lots.items())
            for name, one in turns if number % 2 else reversed(turns):
                client.config_resetstat()
                began = time.perf_counter()
                gone = sum(one.release() for _ in range(_ROUND))
                walls[name].append(gone / (time.perf_counter() - began))
                micros = client.info("commandstats")["cmdstat_evalsha"]["usec"]
                rates[name].append(1e6 * gone / micros)
        parked = {name: one.park_us for name, one in lots.items()}
        client.close()
        store.close()
    base = rates[f"{few} lanes"]
    return {
        "lot": lot,
        "load": round(os.getloadavg()[0], 2),
        "lanes": {
            name: rounded({
                "script_per_second": median(found),
                "slowest": min(found),
                "fastest": max(found),
                "of_few_lanes": median(a / b for a, b in zip(found, base, strict=True)),
                "seen_by_the_asker_per_second": median(walls[name]),
                "parking_by_the_store_us": parked[name],
            })
            for name, found in rates.items()
        },
    }  # fmt: skip
