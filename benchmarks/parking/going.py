"""Tasks that are parked and released: makespan, calls, turns, urgency and order."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import Any

from benchmarks.figures import percentile
from benchmarks.fleet import Fleet, wait_until
from benchmarks.parking.probes import Messages, Stamps, inversions, rounded, task_id
from governor.clock import SECOND
from governor.policy.parking_values import Arrival, ParkedTask
from governor.ports import Change
from governor.stores.redis.store import RedisStore

SMALL = 9
SMALL_TASKS = 100
RESERVE = 0.1
RATE = 100
"""Calls a second where turns and urgency are measured."""

_RUSH = 250
_REAL = 500
"""Tasks that a worker parks where many shall wait: some still do when all have come."""


def paced(tasks: int, rate: int) -> dict[str, Any]:
    """Two workers, everything published before they see the first; the calls they made."""
    burst = max(1, rate // 10)
    with Fleet(rate=f"{rate}/s", burst=burst) as fleet:
        Messages(fleet, "governed.stamp").send(range(1, 1 + tasks), to="shelf")
        stamps = Stamps(fleet)
        for _ in range(2):
            fleet.worker()
        began = time.monotonic()
        fleet.redis.rename("shelf", "celery")
        taken_in = None
        ideal = (tasks - burst) / rate
        deadline = began + 30 + 2 * ideal
        while stamps.look() < tasks and time.monotonic() < deadline:
            if taken_in is None and not fleet.redis.exists("celery"):
                taken_in = time.monotonic() - began
            time.sleep(0.05)
        finished = len(stamps.all)
        if finished >= tasks:
            # The workers write their counters twice a second.
            wait_until(lambda: fleet.drained() and fleet.parked() == 0)
            time.sleep(1.0)
        span = stamps.span()
        return rounded({
            "tasks": tasks,
            "rate": rate,
            "finished": finished,
            "makespan_seconds": span,
            "ideal_seconds": ideal,
            "makespan_ratio": span / ideal if finished >= tasks else None,
            "tasks_per_second": (finished - 1) / span,
            "seconds_until_the_queue_was_empty": taken_in,
            "parked": fleet.stats("parked"),
            "doubled": finished - len({stamp.number for stamp in stamps.all}),
            "limiter_calls_per_task": fleet.stats("limiter_calls") / finished,
            "broker_messages_per_task": 1 + fleet.stats("broker_messages") / finished,
            "load": os.getloadavg()[0],
        })  # fmt: skip


def unpaused(tasks: int) -> dict[str, Any]:
    """All tasks of a paused upstream, whose limit never binds, are parked. How fast do two workers
    run them once the pause is ended?"""
    with Fleet(rate="1000000/s", burst=1_000_000) as fleet:
        store = RedisStore(fleet.settings.redis_url)
        seconds, _ = fleet.redis.time()
        until = str((seconds + 3_000) * SECOND)
        store.change(Change("api", "pause", "", until, "benchmark", "they shall all be parked"))
        _fill(fleet, Messages(fleet, "governed.stamp"), tasks)
        stamps = Stamps(fleet)
        began = time.monotonic()
        store.change(Change("api", "resume", "", "", "benchmark", "they are"))
        store.close()
        wait_until(lambda: stamps.look() >= tasks, timeout=60 + tasks / 100)
        return rounded({
            "tasks": tasks,
            "tasks_per_second": (tasks - 1) / stamps.span(),
            "first_after_seconds": min(stamp.at for stamp in stamps.all) - began,
            "load": os.getloadavg()[0],
        })  # fmt: skip


def fair(tasks: int) -> dict[str, Any]:
    """One tenant has ``tasks`` parked when nine others come with a hundred each."""
    with Fleet(rate=f"{RATE}/s", burst=10, fair_by="tenant") as fleet:
        stamps = Stamps(fleet)
        _fill(fleet, Messages(fleet, "governed.stamp", "big"), tasks)
        small = [Messages(fleet, "governed.stamp", f"small{n}") for n in range(SMALL)]
        stamps.look()
        big_before = len(stamps.all)
        published = time.monotonic()
        for number in range(SMALL_TASKS):
            for tenant, messages in enumerate(small):
                messages.send([tasks + 1 + SMALL * number + tenant])
        publishing = time.monotonic() - published
        wanted = SMALL * SMALL_TASKS
        waiting = fleet.parked()

        def done() -> bool:
            stamps.look()
            return sum(stamp.tenant != "big" for stamp in stamps.all) >= wanted

        wait_until(done, timeout=60 + 3 * wanted / RATE)
        ends: dict[str, float] = defaultdict(float)
        for stamp in stamps.all:
            ends[stamp.tenant] = max(ends[stamp.tenant], stamp.at - published)
        big = sum(stamp.at <= published + min(ends.values()) for stamp in stamps.all[big_before:])
        del ends["big"]
        share = SMALL_TASKS * (SMALL + 1) / RATE
        return rounded({
            "tasks_of_the_big": tasks,
            "waiting_when_published": waiting,
            "fair_seconds": share,
            "first_done_seconds": min(ends.values()),
            "last_done_seconds": max(ends.values()),
            "last_to_fair_share": max(ends.values()) / share,
            "publishing_seconds": publishing,
            "calls_until_the_first_was_done": big,
            "load": os.getloadavg()[0],
        })  # fmt: skip


def urgent(tasks: int, calls: int) -> dict[str, Any]:
    """Urgent tasks, at 0.8 of the reserved rate, while ``tasks`` others wait."""
    with Fleet(rate=f"{RATE}/s", burst=10, reserve=RESERVE, urgent=(0,)) as fleet:
        stamps = Stamps(fleet)
        _fill(fleet, Messages(fleet, "governed.stamp", "bulk", priority=9), tasks)
        messages = Messages(fleet, "governed.stamp", "urgent")
        apart = 1 / (0.8 * RESERVE * RATE)
        sent: dict[int, float] = {}
        begin = time.monotonic()
        for number in range(tasks + 1, tasks + 1 + calls):
            time.sleep(max(0.0, begin + apart * len(sent) - time.monotonic()))
            sent[number] = messages.send([number])
        waiting = fleet.parked()
        found: dict[int, float] = {}

        def done() -> bool:
            stamps.look()
            found.update({s.number: s.at for s in stamps.all if s.number in sent})
            return len(found) == calls

        wait_until(done)
        late = [1e3 * (found[number] - at) for number, at in sent.items()]
        return rounded({
            "calls": calls,
            "waiting_after": waiting,
            "p50_ms": percentile(late, 0.5),
            "p95_ms": percentile(late, 0.95),
            "p99_ms": percentile(late, 0.99),
            "most_ms": max(late),
            "two_slots_ms": 2e3 / (RESERVE * RATE),
            "load": os.getloadavg()[0],
        })  # fmt: skip


def order(tasks: int) -> dict[str, Any]:
    """At a rate that the worker keeps with ease, and at one at which it is late."""
    return {"steady": _ordered(tasks, RATE), "rushed": _ordered(tasks, _RUSH)}


def _ordered(tasks: int, rate: int) -> dict[str, Any]:
    """One queue, one worker of one pool slot, one lane; everything that has to wait is parked."""
    with Fleet(rate=f"{rate}/s", burst=1, hold=0.0) as fleet:
        stamps = Stamps(fleet)
        Messages(fleet, "governed.stamp").send(range(1, 1 + tasks), to="shelf")
        fleet.worker(slots=1)
        fleet.redis.rename("shelf", "celery")
        wait_until(lambda: stamps.look() >= tasks, timeout=60 + 3 * tasks / rate)
        wait_until(lambda: fleet.stats("admitted") >= tasks)
        started = [stamp.number for stamp in stamps.all]
        return rounded({
            "tasks": tasks,
            "rate": rate,
            "parked": fleet.stats("parked"),
            "inversions": inversions(started),
            "tasks_per_second": (tasks - 1) / stamps.span(),
            "load": os.getloadavg()[0],
        })  # fmt: skip


def _fill(fleet: Fleet, messages: Messages, tasks: int) -> None:
    """So many wait. A worker parks the first ones; the others are copies of one of those, put into
    the lot beside it, which takes seconds instead of minutes."""
    messages.send(range(1, 1 + _REAL))
    for _ in range(2):
        fleet.worker()
    wait_until(lambda: not fleet.redis.exists(messages.key) and fleet.redis.hlen("unacked") <= 16)
    store = RedisStore(fleet.settings.redis_url, timeout=5 * SECOND)
    (model,) = store.lots.find("api", task_id(_REAL))
    for at in range(1 + _REAL, 1 + tasks, 200):
        some = range(at, min(at + 200, 1 + tasks))
        store.lots.park("api", [_copy(model, number) for number in some])
    store.close()


def _copy(model: ParkedTask, number: int) -> Arrival:
    name = task_id(number)
    payload = model.payload.replace(model.entry.encode(), name.encode())
    return Arrival(name, model.lane, model.costs, payload, max_wait=3_600 * SECOND)
