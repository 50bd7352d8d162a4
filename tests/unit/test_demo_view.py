"""The live view and the figures it draws."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from governor.demo.stats import DemoStats, UpstreamStats, merge, read_stats
from governor.demo.view import View, line, table, until
from governor.demo.watch import Progress

SECOND = 1_000_000


def part(**upstream: object) -> dict[str, object]:
    return {
        "upstreams": {"stripe": {"next_slot": None, **upstream}},
        "limiter_calls": 10,
        "broker_messages": 4,
        "decision_us": [100, 300],
    }


def test_workers_are_summed() -> None:
    """Counts add up, the nearest slot of all workers is the next, latencies are one sample."""
    total = merge([part(admitted=3, next_slot=50), part(admitted=4, waiting=2, next_slot=20)])
    assert total.upstreams == {"stripe": UpstreamStats(admitted=7, waiting=2, next_slot=20)}
    assert (total.limiter_calls, total.broker_messages) == (20, 8)
    assert total.decision_us == [100, 100, 300, 300]


def test_a_worker_without_waiting_tasks_has_no_slot() -> None:
    """No slot and some slot make some slot; none and none make none."""
    assert merge([part(), part(next_slot=7)]).upstreams["stripe"].next_slot == 7
    assert merge([part(), part()]).upstreams["stripe"].next_slot is None


@pytest.mark.parametrize(
    ("latencies", "share", "expected"),
    [
        ([], 0.5, None),
        ([1000], 0.99, 1.0),
        (list(range(1000, 101_000, 1000)), 0.5, 51.0),
        (list(range(1000, 101_000, 1000)), 0.99, 100.0),
    ],
)
def test_percentile(latencies: list[int], share: float, expected: float | None) -> None:
    """A percentile is a latency that was measured, in milliseconds; without any there is none."""
    assert DemoStats(decision_us=latencies).percentile_ms(share) == expected


def test_files_of_all_workers_are_read(tmp_path: Path) -> None:
    """Every worker's file counts, and nothing else in the folder."""
    assert read_stats(tmp_path) == DemoStats()
    for pid in (11, 12):
        (tmp_path / f"stats.{pid}.json").write_text(json.dumps(part(admitted=1)))
    (tmp_path / "settings.json").write_text("{}")
    assert read_stats(tmp_path).upstreams["stripe"].admitted == 2


NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (None, "-"),
        (NOW + 1_250_000, "1.2 s"),
        (NOW - SECOND, "0.0 s"),  # due: its worker is about to start it
    ],
)
def test_until(slot: int | None, expected: str) -> None:
    """A near slot is shown in seconds from now."""
    assert until(slot, NOW) == expected


def test_a_far_slot_is_shown_as_a_time() -> None:
    """A slot a minute or more away is a time of day."""
    assert until(NOW + 3600 * SECOND, NOW).count(":") == 2


def progress() -> Progress:
    return Progress(
        planned={"stripe": 10, "github": 5},
        stage="working",
        published=15,
        finished={"stripe": 4},
        dead={"stripe": 1},
        stats=DemoStats(
            {"stripe": UpstreamStats(3, waiting=6, throttled=2, next_slot=NOW + SECOND)}
        ),
    )


def test_the_table_shows_every_upstream() -> None:
    """Each upstream has a row, also before its first call: admitted, waiting, until, throttled,
    dead, finished."""
    out = io.StringIO()
    Console(file=out, width=120).print(table(progress(), 2.0, NOW))
    rows = {row.split()[0]: row.split() for row in out.getvalue().splitlines() if row.strip()}
    assert rows["stripe"][1:7] == ["3", "6", "1.0", "s", "2", "1"]
    assert rows["stripe"][-1] == "4/10"
    assert rows["github"][1:6] == ["0", "0", "-", "0", "0"]
    assert rows["github"][-1] == "0/5"


def test_without_a_terminal_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody watches there are lines without escape codes: one per stage, then one every
    two seconds."""
    moments = iter([100.0, *(100.0 + 0.1 * turn for turn in range(50))])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    out = io.StringIO()
    with View(Console(file=out, force_terminal=False)) as view:
        for _ in range(50):
            view.show(progress())
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().splitlines() == [line(progress(), at) for at in (0.0, 2.0, 4.0)]


def test_on_a_terminal_the_table_redraws() -> None:
    """On a terminal the table is drawn in place, and the cursor is given back."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with View(console) as view:
        view.show(progress())
    assert "4/10" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[?25h")
