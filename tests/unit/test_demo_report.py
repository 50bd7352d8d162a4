"""The report says what the balance says, under names that are a contract."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from governor.demo.ledger import Tally
from governor.demo.report import as_json, faults, print_report
from governor.demo.run import RunOutcome
from governor.demo.stats import DemoStats

GOOD = Tally(
    published=10,
    succeeded=7,
    dead=2,
    waiting=1,
    lost=(),
    duplicated=(),
    contradicted=(),
    unexpected=(),
    upstream_calls=12,
    upstream_rejected=1,
    upstream_throttled=2,
    makespan=1_234_567,
)


def outcome(tally: Tally = GOOD, database_url: str = "sqlite:////tmp/dead.sqlite") -> RunOutcome:
    stats = DemoStats(limiter_calls=11, broker_messages=3, decision_us=[200, 400, 1000])
    return RunOutcome(
        tally, 1_000_000, stats, {"outcome_unknown": 1, "not_retryable": 1}, database_url
    )


def test_json() -> None:
    """Seconds and milliseconds, counts instead of lists of ids."""
    assert as_json(outcome()) == {
        "published": 10,
        "succeeded": 7,
        "dead": 2,
        "waiting": 1,
        "lost": 0,
        "duplicated": 0,
        "upstream_calls": 12,
        "upstream_rejected": 1,
        "makespan_seconds": 1.235,
        "ideal_seconds": 1.0,
        "limiter_calls": 11,
        "broker_messages": 13,
        "latency_ms": {"p50": 0.4, "p95": 1.0, "p99": 1.0},
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lost": ("a", "b", "c", "d"), "succeeded": 3}, "4 lost: published, and neither"),
        ({"duplicated": ("a",)}, "1 duplicated: called again where that is forbidden (a)"),
        ({"contradicted": ("a",)}, "1 contradicted"),
        ({"unexpected": ("a",)}, "1 unexpected"),
        ({"dead": 5}, "published 10, but succeeded + dead + waiting = 13"),
    ],
)
def test_each_fault_has_its_sentence(change: dict[str, object], said: str) -> None:
    """What makes the balance wrong is said, with the first tasks concerned."""
    wrong = outcome(replace(GOOD, **change))  # type: ignore[arg-type]
    assert not wrong.tally.balanced
    assert faults(wrong)[0].startswith(said)


def test_a_right_balance_has_no_fault() -> None:
    """Silence when there is nothing to say."""
    assert GOOD.balanced
    assert faults(outcome()) == []


def test_the_report_prints_what_to_type_next_but_no_password() -> None:
    """The two commands stand on lines of their own, whole, whatever the width."""
    out = io.StringIO()
    url = "postgresql://me:secret@db.example/" + "x" * 100
    print_report(outcome(database_url=url), Console(file=out, width=60))
    assert "secret" not in out.getvalue()
    commands = [line.split() for line in out.getvalue().splitlines() if "governor" in line]
    assert [command[-2:] for command in commands] == [["dead", "groups"], ["dead", "list"]]
    assert all(command[2].endswith("x" * 100) for command in commands)


@pytest.mark.parametrize("on_path", [True, False])
def test_the_commands_work_where_they_are_read(
    on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is not on PATH is named by its whole path."""
    program = tmp_path / "governor"
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path) if on_path else "/nowhere")
    out = io.StringIO()
    print_report(outcome(), Console(file=out, width=60))
    expected = "governor" if on_path else str(program)
    assert f"  {expected} --database sqlite:////tmp/dead.sqlite dead groups\n" in out.getvalue()
