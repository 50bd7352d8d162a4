"""The cost of one decision, beside other limiters, as ratios to B.

B is the cheapest script call that redis-py can make: ``client.evalsha("return 1")``. Client and
server share one core and talk over TCP on this machine, so that a call costs what both compute.
All take turns within each round, as long as 50 calls of B, because a longer turn on a busy
machine is interrupted more often; and a ratio is the median over the rounds of the ratio of the
two turns' medians. Beside it stands the same of the processor time that client and server took,
which does not know how busy the machine was. Then 16 processes ask about one hot key, in turns as
well, on all cores; then the server's own time for our scripts is read from it under pipelined
load.

    python -m benchmarks.decision --rounds 40
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis
from rich.table import Table

from benchmarks.figures import percentile, ratio
from benchmarks.fleet import main
from benchmarks.ours import admission_of, ask_of, asked_at_admission, plan_of, store_of
from benchmarks.peers import Peer, available
from benchmarks.processes import Barrier, one_core, together
from benchmarks.wire import Wire
from governor.policy.limits import Concurrency, Limit, Rule, Window
from governor.testing.redis_server import PrivateRedis

BASE = "B"
STORE = "governor"
ADMISSION = "governor, as a worker asks"

_TURN = 50
"""Calls of B before the next has its turn; what is slower makes fewer in the same time."""

_SHORTEST_TURN = 5

_PIPELINE = 10
"""Scripts sent at once: a fraction of a millisecond, which is rarely interrupted."""

_PIPELINES = 40

_FAST = 1_000_000
_UNDER = (
    Limit("1000000/s", burst=_FAST),
    Limit("60000000/min", burst=_FAST),
    Limit("3600000000/h", burst=_FAST),
)
_OVER = (Limit("1/s", burst=1),)

Ask = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """One question, put to everybody.

    Attributes:
        limits: ours.
        bar: what our store may cost, in B for each decision; ``None`` for no bar.
        batch: decisions asked for in one call; only ours can.
        peers: rate a second and burst of the others; ``None`` leaves them out.
        three: whether they are asked for three limits.
        everything: also a breaker, and the claim of a task that is not idempotent.
    """

    limits: tuple[Rule, ...]
    bar: float | None
    batch: int = 1
    peers: tuple[float, int] | None = None
    three: bool = False
    everything: bool = False


CASES: dict[str, Case] = {
    "one limit, under": Case(_UNDER[:1], 0.60, peers=(_FAST, _FAST)),
    "one limit, over": Case(_OVER, 0.60, peers=(1, 1)),
    "three limits": Case(_UNDER, 0.70, peers=(_FAST, _FAST), three=True),
    "all kinds at once": Case(
        (
            Limit("1000000/s", burst=_FAST, per="account"),
            Window(_FAST, per_seconds=1),
            Concurrency(100),
        ),
        1.0,
        everything=True,
    ),
    "batch of 10": Case(_UNDER[:1], 0.20, batch=10),
}
"""Every case of the table, by its name. A further kind of limit is one line here."""

SCRIPTS: dict[str, tuple[tuple[Limit, ...], float]] = {
    "one limit": (_UNDER[:1], 4.5),
    "three limits": (_UNDER, 6.5),
}
"""Limits whose script is timed in the server, and the microseconds it may take."""

CROWD_BAR = 1.6
"""Decisions a second of 16 processes, in those of B."""


def measure(rounds: int, processes: int, crowd_rounds: int, slice_ms: int) -> dict[str, Any]:
    """All figures, on one private server."""
    kinds, skipped = available()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="governor-bench-"))
        server = stack.enter_context(PrivateRedis(Path(folder)))
        # First: it forks, and a fork wants no connections.
        crowd = crowded(server.url, kinds, processes, crowd_rounds, slice_ms / 1000)
        with one_core(server.pid) as pinned:
            cases = {name: alone(server, name, case, kinds, rounds) for name, case in CASES.items()}
        scripts = script_times(server.url, rounds)
    return {
        "same_core": pinned,
        "load_after": round(os.getloadavg()[0], 2),
        "cases": cases,
        "crowd": crowd,
        "script_us": scripts,
        "settings": {kind.name: kind.setting for kind in kinds},
        "three_limits": {kind.name: kind.several for kind in kinds},
        "skipped": skipped,
    }


def alone(
    server: PrivateRedis, name: str, case: Case, kinds: Iterable[type[Peer]], rounds: int
) -> dict[str, Any]:
    """One case: a ratio to B, and microseconds of a decision, for each that is asked."""
    url = server.url
    asks = {BASE: base(url), **ours(url, name, case), **theirs(url, name, case, kinds)}
    times: dict[str, list[list[float]]] = defaultdict(list)
    work: dict[str, list[list[float]]] = defaultdict(list)
    first = {kind: median(turn(ask, _TURN)) for kind, ask in asks.items()}
    calls = {
        kind: max(_SHORTEST_TURN, min(_TURN, round(_TURN * first[BASE] / once)))
        for kind, once in first.items()
    }
    for number in range(rounds):
        turns = list(asks.items())
        for kind, ask in turns if number % 2 else reversed(turns):
            decisions = case.batch if kind in {STORE, ADMISSION} else 1
            before = processor_time(server.pid)
            times[kind].append(turn(ask, calls[kind], decisions))
            spent = processor_time(server.pid) - before
            work[kind].append([spent / calls[kind] / decisions])
    return {
        kind: {
            "ratio": round(ratio(times[kind], times[BASE]), 3),
            "cpu_ratio": round(ratio(work[kind], work[BASE]), 3),
            "cpu_us": round(median(spent for (spent,) in work[kind]), 1),
            **{
                f"p{p}_us": round(percentile([t for x in times[kind] for t in x], p / 100), 1)
                for p in (50, 95, 99)
            },
        }
        for kind in asks
    }


def turn(ask: Ask, calls: int, decisions: int = 1) -> list[float]:
    """Microseconds of a decision, for each call."""
    clock = time.perf_counter_ns
    found = []
    for _ in range(calls):
        started = clock()
        ask()
        found.append((clock() - started) / 1000 / decisions)
    return found


def processor_time(server: int) -> float:
    """Microseconds that this process and the server have computed so far; elsewhere than on Linux
    ours alone."""
    known = Path(f"/proc/{server}/schedstat")
    theirs = int(known.read_text().split()[0]) if known.exists() else 0
    return (time.process_time_ns() + theirs) / 1000


def base(url: str) -> Ask:
    """The cheapest script call of redis-py."""
    client = redis.Redis.from_url(url)
    script = client.script_load("return 1")
    return lambda: client.evalsha(script, 0)


def ours(url: str, name: str, case: Case) -> dict[str, Ask]:
    """The governor's store alone, and the admission a worker goes through."""
    upstream = name.replace(" ", "-").replace(",", "")
    plan = plan_of(upstream, case.limits, breaker=case.everything)
    store, ask = store_of(url), ask_of(plan, claimed=case.everything)
    asks = [ask] * case.batch
    return {
        STORE: (lambda: store.admit(ask)) if case.batch == 1 else lambda: store.admit_many(asks),
        ADMISSION: asked_at_admission(
            admission_of(url),
            plan_of(f"{upstream}-worker", case.limits, breaker=case.everything),
            case.batch,
        ),
    }


def theirs(url: str, name: str, case: Case, kinds: Iterable[type[Peer]]) -> dict[str, Ask]:
    """The other limiters, on a key of this case."""
    if case.peers is None:
        return {}
    found: dict[str, Ask] = {}
    for kind in kinds:
        peer = kind()
        (peer.three if case.three else peer.setup)(url, *case.peers, f"{name} {kind.name}")
        found[kind.name] = peer.try_three if case.three else peer.try_acquire
    return found


def crowded(
    url: str, kinds: list[type[Peer]], processes: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Decisions a second of so many processes about one key under its limit."""
    case = CASES["one limit, under"]

    def work(_number: int, barrier: Barrier) -> dict[str, list[int]]:
        asks = {BASE: base(url), STORE: ours(url, "crowd", case)[STORE]}
        asks |= theirs(url, "crowd", case, kinds)
        counts: dict[str, list[int]] = defaultdict(list)
        for ask in asks.values():
            ask()
        for _ in range(rounds):
            for kind, ask in asks.items():
                barrier.wait(60)
                deadline = time.perf_counter() + seconds
                count = 0
                while time.perf_counter() < deadline:
                    ask()
                    count += 1
                counts[kind].append(count)
        return dict(counts)

    budget = 60 + 3 * rounds * seconds * (len(kinds) + 2)
    everyone = together(processes, work, timeout=budget)
    totals = {
        kind: [sum(found) for found in zip(*(one[kind] for one in everyone), strict=True)]
        for kind in everyone[0]
    }
    return {
        kind: {
            "per_second": round(median(found) / seconds),
            "ratio": round(median(f / b for f, b in zip(found, totals[BASE], strict=True)), 2),
        }
        for kind, found in totals.items()
    }


def script_times(url: str, rounds: int) -> dict[str, float]:
    """The server's own microseconds of one call, from ``INFO commandstats``: the commands that our
    store puts on the wire, sent again in pipelines."""
    client = redis.Redis.from_url(url)
    script = client.script_load("return 1")
    commands = {"return 1": Wire.packed("EVALSHA", script, "0")}
    with Wire(url) as wire:
        store = store_of(wire.url)
        for name, (limits, _) in SCRIPTS.items():
            ask = ask_of(plan_of(f"script-{len(limits)}", limits))
            store.admit(ask)
            commands[name] = wire.sent(lambda ask=ask: store.admit(ask))
        store.close()
    connection = client.connection_pool.get_connection()
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(max(3, rounds)):
        for name, command in commands.items():
            for _ in range(_PIPELINES):
                client.config_resetstat()
                connection.send_packed_command([command * _PIPELINE])
                for _ in range(_PIPELINE):
                    connection.read_response()
                found[name].append(_microseconds(client, command))
    return {name: round(median(times), 2) for name, times in found.items()}


def _microseconds(client: Any, command: bytes) -> float:
    word = command.split(b"\r\n")[2].decode().lower()
    return float(client.info("commandstats")[f"cmdstat_{word}"]["usec_per_call"])


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    verdicts = {
        f"{name}: at most {case.bar:.2f} B": figures["cases"][name][STORE]["ratio"] <= case.bar
        for name, case in CASES.items()
        if case.bar is not None
    }
    crowd = figures["crowd"][STORE]["ratio"]
    verdicts[f"processes on one key: at least {CROWD_BAR} × B's decisions"] = crowd >= CROWD_BAR
    for name, (_, bar) in SCRIPTS.items():
        verdicts[f"script, {name}: at most {bar} µs"] = figures["script_us"][name] <= bar
    return verdicts


def tables(record: Mapping[str, Any]) -> Iterable[Table]:
    """Ratios to B, then microseconds, then the scripts."""
    cases, crowd = record["cases"], record["crowd"]
    names = list(dict.fromkeys(kind for case in cases.values() for kind in case))
    table = Table(
        title="Ratio to B (and of processor time), "
        f"load {record['load_before']} to {record['load_after']}"
    )
    table.add_column("")
    for case in cases:
        table.add_column(case, justify="right")
    table.add_column(f"{record['processes']} processes, decisions", justify="right")
    for kind in names:
        cells = [
            f"{case[kind]['ratio']:.2f} ({case[kind]['cpu_ratio']:.2f})" if kind in case else "–"
            for case in cases.values()
        ]
        many = f"{crowd[kind]['ratio']:.2f}" if kind in crowd else "–"
        table.add_row(kind, *cells, many)
    yield table

    table = Table(title="Microseconds of a decision: p50 / p95 / p99")
    table.add_column("")
    for case in cases:
        table.add_column(case, justify="right")
    table.add_column("decisions/s", justify="right")
    for kind in names:
        cells = [
            " / ".join(f"{case[kind][f'p{p}_us']:.0f}" for p in (50, 95, 99))
            if kind in case
            else "–"
            for case in cases.values()
        ]
        table.add_row(kind, *cells, str(crowd[kind]["per_second"]) if kind in crowd else "–")
    yield table

    table = Table(title="The server's own time of one script, µs")
    for name in record["script_us"]:
        table.add_column(name, justify="right")
    table.add_row(*(f"{found:.2f}" for found in record["script_us"].values()))
    yield table

    table = Table(title="How each is set up")
    for name in ("", "setting", "three limits"):
        table.add_column(name)
    for kind, setting in record["settings"].items():
        table.add_row(kind, setting, record["three_limits"][kind])
    for sentence in record["skipped"]:
        table.add_row("", sentence, "")
    yield table


if __name__ == "__main__":
    main(
        __doc__,
        {"rounds": 40, "processes": 16, "crowd_rounds": 5, "slice_ms": 300},
        measure,
        bars,
        quick={"rounds": 3, "crowd_rounds": 1, "slice_ms": 100},
        tables=tables,
    )
