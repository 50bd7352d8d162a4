"""The workers: whether bodies start in time, and whether parked tasks have a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from governor.cli.doctor.finding import Finding
from governor.cli.environment import Environment
from governor.errors import GovernorError
from governor.governor import Governor
from governor.worker.inspect import STARTS
from governor.worker.lateness import REMEDY

_ANSWERS = 1.0
"""Seconds in which workers may answer."""


def starts(environment: Environment) -> Iterator[Finding]:
    """Check that bodies start in time, by the workers' answers; find nothing if none answers."""
    try:
        replies = environment.ask_workers(STARTS, {}, _ANSWERS)
    except Exception as exc:  # noqa: BLE001 - whatever the broker's client raises
        # Its text may hold the broker's password.
        yield Finding(
            "worker starts", "warning", f"the workers could not be asked ({type(exc).__name__})",
            "Start the broker, or correct broker_url",
        )  # fmt: skip
        return
    told = {
        name: starts for reply in replies for name, starts in reply.items()
        if isinstance(starts, dict) and "starts" in starts
    }  # fmt: skip
    late = {name: starts for name, starts in sorted(told.items()) if starts["starts"]}
    for name, starts in late.items():
        yield Finding(
            "worker starts", "warning",
            f"{name}: {starts['starts']} bodies started late, the last one "
            f"{starts['last'] // 1_000} ms after its slot; the grace is "
            f"{starts['grace'] // 1_000} ms",
            REMEDY,
        )  # fmt: skip
    if told and not late:
        yield Finding("worker starts", "ok", f"in time in all {len(told)} workers that answered")


def queues(environment: Environment) -> Iterator[Finding]:
    """Check that a worker consumes each queue that parked tasks came from, for it releases them."""
    try:
        parked = _parked(environment.governor())
    except GovernorError:
        return  # said where the limiter store is looked at
    if not parked:
        return
    try:
        replies = environment.ask_workers("active_queues", {}, _ANSWERS)
    except Exception:  # noqa: BLE001 - said where the starts are looked at
        return
    consumed = {
        queue["name"] for reply in replies for told in reply.values()
        if isinstance(told, list) for queue in told
    }  # fmt: skip
    for queue in sorted(parked.keys() - consumed):
        yield Finding(
            "parked tasks", "warning",
            f"{parked[queue]} parked tasks came from {queue}, which no worker that answered "
            "consumes: they become dead letters at their max_wait",
            f"Start a worker with -Q {queue}",
        )  # fmt: skip
    if parked.keys() <= consumed:
        yield Finding("parked tasks", "ok", "workers consume the queues of all parked tasks")


def _parked(governor: Governor) -> Counter[str]:
    """Count the tasks that wait in the lots, by the queue they came from."""
    parked: Counter[str] = Counter()
    try:
        for name, upstream in governor.upstreams.items():
            if upstream.parking == "store":
                for lane in governor.store.lots.view(name).lanes:
                    parked[lane.lane.origin] += lane.waiting
    finally:
        governor.store.close()
    return parked
