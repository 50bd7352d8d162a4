"""The arithmetic and the tables of the benchmarks; nothing here is timed."""

from __future__ import annotations

import io
import re
import socket
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import accuracy, decision, pacing, pacing_strict, parking, peers
from benchmarks.figures import delivered, excess, percentile, ratio, whole_window
from benchmarks.ours import Ours, ask_of, plan_of
from benchmarks.parking.probes import inversions
from benchmarks.peers import Peer
from benchmarks.wire import Wire
from governor import Limit
from governor.testing.redis_server import PrivateRedis

# rate, the shortest window of whole seconds
WINDOWS = [
    # a whole number a second
    (100, (100, 1)),
    # a tenth needs ten seconds
    (1.9, (19, 10)),
    # less than one a second
    (0.1, (1, 10)),
]


@pytest.mark.parametrize(("rate", "window"), WINDOWS)
def test_a_rate_as_a_window(rate: float, window: tuple[int, int]) -> None:
    """A limiter that counts in windows is told exactly the rate."""
    assert whole_window(rate) == window


# share, the value
PERCENTILES = [(0.0, 1), (0.5, 51), (0.95, 96), (0.99, 100), (1.0, 100)]


@pytest.mark.parametrize(("share", "value"), PERCENTILES)
def test_percentile(share: float, value: float) -> None:
    """So many lie below it; the order does not matter."""
    assert percentile([*range(100, 0, -1)], share) == value


def test_ratio_is_not_moved_by_a_slow_round() -> None:
    """What slows everybody in one round cancels out; the mean of the times would not."""
    base = [[1.0, 1.0, 9.0], [50.0, 50.0, 50.0], [1.0, 1.0, 1.0]]
    turns = [[2.0, 2.0, 2.0], [100.0, 100.0, 100.0], [2.0, 2.0, 70.0]]
    assert ratio(turns, base) == 2


# moments, burst, rate, excess
EXCESSES = [
    # one call fits any bucket of one
    ([0.0], 1, 10, 0.0),
    # exactly at the rate
    ([0.0, 0.1, 0.2, 0.3], 1, 10, 0.0),
    # a burst of three where one is allowed
    ([0.0, 0.0, 0.0], 1, 10, 2.0),
    # the second half is too dense, wherever the first began
    ([0.0, 5.0, 5.0, 5.0, 5.1], 2, 10, 1.0),
    # never as much as allowed
    ([0.0, 10.0], 5, 10, -4.0),
]


@pytest.mark.parametrize(("moments", "burst", "rate", "most"), EXCESSES)
def test_excess(moments: list[float], burst: int, rate: float, most: float) -> None:
    """The most calls over burst + rate × W, in whichever window that is; order does not matter."""
    assert excess(moments, burst=burst, rate=rate) == pytest.approx(most)
    assert excess(moments[::-1], burst=burst, rate=rate) == pytest.approx(most)
    windows = [(i, j) for i in range(len(moments)) for j in range(i, len(moments))]
    slow = max(j - i + 1 - burst - rate * (moments[j] - moments[i] + 0.05) for i, j in windows)
    assert excess(moments, burst=burst, rate=rate, grace=0.05) == pytest.approx(slow)


def test_delivered_leaves_the_burst_out() -> None:
    """Only what comes after the first seconds counts."""
    moments = [0.0] * 50 + [0.5 + n / 10 for n in range(40)]
    assert delivered(moments, rate=10, skip=1, seconds=2) == 1
    assert delivered([], rate=10, skip=1, seconds=2) == 0


def test_what_is_not_installed_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package costs a row, not the run."""
    monkeypatch.setattr(peers, "MODULES", {"no_such_module": "no-such-package"})
    found, (sentence,) = peers.available()
    assert found == []
    assert sentence.startswith("no-such-package is left out: ")


def test_every_limiter_has_its_own_name_and_says_how_it_is_set_up() -> None:
    """Tables are keyed by name."""
    kinds: list[type[Peer]] = [Ours, *peers.available()[0]]
    names = [kind.name for kind in kinds]
    assert len(set(names)) == len(names)
    assert all(kind.setting and kind.waits and kind.several for kind in kinds)


@pytest.mark.redis
def test_every_limiter_admits_its_burst_and_then_refuses(tmp_path: Path) -> None:
    """Each adapter reaches its limiter: the first call is admitted, and not all of many are."""
    kinds = peers.available()[0]
    with PrivateRedis(tmp_path) as server:
        with closing(Ours()) as ours:
            ours.setup(server.url, 0.1, 1, "ours")
            # A bucket starts full in ours, and may lose its burst of one to that.
            assert not any(ours.try_acquire() for _ in range(5))
        for kind in kinds:
            peer = kind()
            peer.setup(server.url, 0.1, 1, kind.__module__ + kind.__qualname__)
            assert peer.try_acquire(), kind.name
            assert not all(peer.try_acquire() for _ in range(5)), kind.name


def test_asks_are_made_of_all_limits() -> None:
    """The question has a charge for each limit of its case."""
    for case in decision.CASES.values():
        ask = ask_of(plan_of("api", case.limits))
        assert len(ask.charges) == len(case.limits)
        assert ask.max_wait > 86_400 * 1_000_000
    assert ask_of(plan_of("api", [Limit("1/s")]), hold=7).hold == 7


def record(**figures: Any) -> dict[str, Any]:
    """A record as ``fleet.main`` makes it."""
    return {"load_before": 0.5, "load_after": 0.6, "skipped": ["x is left out"], **figures}


def shown(tables: Any) -> str:
    console = Console(width=300, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_decision_table_and_its_bars() -> None:
    """A row for each limiter, a verdict for each bar; a bar is kept at its value and not beyond."""
    one = {"ratio": 0.6, "cpu_ratio": 0.5, "p50_us": 100.0, "p95_us": 200.0, "p99_us": 300.0}
    kinds = {decision.BASE: one, decision.STORE: one, decision.ADMISSION: one}
    figures = record(
        processes=16,
        cases={name: {**kinds, "other": {**one, "ratio": 1.5}} for name in decision.CASES},
        crowd={name: {"per_second": 9000, "ratio": 1.6} for name in (decision.STORE, "other")},
        script_us={"return 1": 1.5, "one limit": 4.5, "three limits": 6.6},
        settings={"other": "as documented"},
        three_limits={"other": "not atomic"},
    )
    text = shown(decision.tables(figures))
    assert re.search(r"other +│ +1\.50 \(0\.50\) │", text)
    assert "x is left out" in text
    bars = decision.bars(figures)
    missed = {name.partition(":")[0] for name, kept in bars.items() if not kept}
    assert missed == {"batch of 10", "script, three limits"}
    assert any(bars.values())


def test_accuracy_is_judged_after_whole_windows() -> None:
    """A limiter that gives a whole window at once delivers its rate all the same."""
    told = accuracy.Told(1.9, 2)
    skip, count = accuracy.span(told, 3)
    moments = [window + n / 1000 for window in (0, 10, 20.01) for n in range(19)]
    found = accuracy.judged(moments, told, 19, skip, count)
    assert found["delivered"] == 1
    assert found["excess"] == pytest.approx(17, abs=0.1)
    assert found["excess_own"] == pytest.approx(0, abs=0.1)
    even = [n / 1.9 for n in range(60)]
    ours = {Ours.name: accuracy.judged(even, told, 2, skip, count)}
    assert ours[Ours.name]["delivered"] == pytest.approx(1, abs=0.06)
    figures = record(
        seconds=3, told={str(told): ours for told in accuracy.TOLD}, settings={"a": "b"}
    )
    assert accuracy.bars(figures)["1.9/s, burst 2: never more"]
    assert accuracy.judged([], told, 1, skip, count)["delivered"] == 0
    assert "governor" in shown(accuracy.tables(figures))


def test_strict_pacing_is_judged_by_both_its_bars() -> None:
    """Unused quota and rejections each miss a bar of their own."""
    good = {"calls": 900, "quota_used": 0.99, "rejected": 0, "rejected_share": 0.001}
    figures = record(
        rate=100, burst=5, processes=8, limiters={Ours.name: good}, waits={Ours.name: "sleeps"}
    )
    assert list(pacing_strict.bars(figures).values()) == [True, True]
    assert "99.0 %" in shown(pacing_strict.tables(figures))
    figures["limiters"][Ours.name] = {**good, "quota_used": 0.98, "rejected_share": 0.0011}
    assert list(pacing_strict.bars(figures).values()) == [False, False]


# numbers in the order in which they began, how many came after a later one
ORDERS = [
    # as they were sent
    ([1, 2, 3], 0),
    # two changed places
    ([1, 3, 2, 4], 1),
    # one was overtaken by three
    ([2, 3, 4, 1], 1),
    # the last came first
    ([4, 1, 2, 3], 3),
    ([], 0),
]


@pytest.mark.parametrize(("numbers", "found"), ORDERS)
def test_inversions(numbers: list[int], found: int) -> None:
    """Whoever begins after a later one counts once."""
    assert inversions(numbers) == found


def test_parking_is_judged_part_by_part() -> None:
    """Only what was measured has bars; a part that failed misses one, and the others are shown."""
    run = {"rate": 1_000, "makespan_ratio": None, "tasks_per_second": 90.0}
    lane = {"script_per_second": 30_000.0, "of_few_lanes": 0.8}
    figures = record(
        release={"lanes": {"10 lanes": lane, "20 lanes": lane, "20 own": lane}},
        makespan={"plain_per_second": 100.0, "fast": run, "steady": {**run, "rate": 200}},
        failed={"order": "TimeoutError: it did not happen"},
    )
    assert all(met for name, met in parking.bars(figures).items() if "order" not in name)
    assert parking.bars(figures)["order: gives figures"] is False
    lane["script_per_second"] = 29_999.0
    run["tasks_per_second"] = 89.0
    assert sum(not met for met in parking.bars(figures).values()) == 3
    text = shown(parking.tables(figures))
    assert "fast: makespan ratio" in text
    assert "it did not happen" in text


def test_the_wire_takes_down_what_is_sent() -> None:
    """Exactly the bytes of one call, and the reply goes back unchanged."""
    assert Wire.packed("GET", "ä") == b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data.upper())

        threading.Thread(target=serve, daemon=True).start()
        with Wire(f"redis://127.0.0.1:{server.getsockname()[1]}/0") as wire:
            port = int(wire.url.rpartition(":")[2].partition("/")[0])
            with socket.create_connection(("127.0.0.1", port)) as client:

                def ask(word: bytes) -> bytes:
                    client.sendall(word)
                    return client.recv(100)

                assert [ask(b"one"), ask(b"two")] == [b"ONE", b"TWO"]
                assert wire.sent(lambda: ask(b"three")) == b"three"


def test_a_quick_run_leaves_out_what_takes_long() -> None:
    """Rates rise; the default run has all of them."""
    rates = [told.rate for told in accuracy.TOLD]
    assert all(low < high for low, high in pairwise(rates))
    assert accuracy.chosen(3) == list(accuracy.TOLD)
    assert [told.window for told in accuracy.chosen(1)] == [1, 1]


def test_pacing_is_judged_way_by_way() -> None:
    """Each way of waiting misses its own bars, and only those; all are in one table."""
    run = {
        "rate": 50, "burst": 20, "rate_kept": 0.99, "makespan_seconds": 9.9, "lost": 0,
        "duplicated": 0, "rejected_share": 0.001, "limiter_calls_per_task": 1.1,
        "broker_messages_per_task": 2.1,
    }  # fmt: skip
    runs = {f"{way}, {place}": dict(run) for way in pacing.WAYS for place in ("alone", "beside")}
    plain = {f"plain, {place}": {"calls_per_second": 100.0, "load": 1.0} for place in pacing.PLACES}
    figures = record(tasks=100, rate=0, burst=0, **plain, **runs)
    assert all(pacing.bars(figures).values())
    assert "parked, beside" in shown(pacing.tables(figures))
    figures["held, alone"]["limiter_calls_per_task"] = 1.2
    figures["deferred, alone"]["rate_kept"] = 0.98
    missed = [bar for bar, met in pacing.bars(figures).items() if not met]
    assert missed == [
        "held, alone: at most 1.1 limiter calls a task",
        "deferred, alone: at least 0.99 of the rate",
    ]
