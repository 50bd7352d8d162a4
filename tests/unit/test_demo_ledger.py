"""The balance must find what it exists to find: loss, doubles, and rows that deny a success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from governor.demo.ledger import CallLedger, CallRecord, DeadRow, JsonLines, Published, Tally, tally


def published(*task_ids: str, idempotent: bool = True) -> list[Published]:
    return [Published(task_id, "demo.task", "stripe", idempotent) for task_id in task_ids]


def call(
    task_id: str,
    verdict: str = "ok",
    *,
    key: str = "k",
    number: int = 1,
    began: int = 0,
    ended: int | None = 1,
) -> CallRecord:
    return CallRecord(number, task_id, key, "stripe", verdict, began, ended)


def dead(task_id: str, reason: str = "retries_exhausted") -> DeadRow:
    return DeadRow(task_id, reason)


ONCE = published("t")
NON_IDEMPOTENT = published("t", idempotent=False)

BALANCED: list[
    tuple[str, list[Published], list[CallRecord], list[DeadRow], list[str], tuple[int, ...]]
]
BALANCED = [
    ("one call, answered", ONCE, [call("t")], [], [], (1, 0, 0)),
    ("died without a call", ONCE, [], [dead("t")], [], (0, 1, 0)),
    ("still in the broker", ONCE, [], [], ["t"], (0, 0, 1)),
    ("done, its message not yet acknowledged", ONCE, [call("t")], [], ["t"], (1, 0, 0)),
    ("failed, then retried", ONCE, [call("t", "transient"), call("t")], [], [], (1, 0, 0)),
    (
        "retried with the same key after a success that did not arrive",
        ONCE,
        [call("t"), call("t", "repeated")],
        [],
        [],
        (1, 0, 0),
    ),
    (
        "non-idempotent, turned away twice before its one call",
        NON_IDEMPOTENT,
        [call("t", "rejected"), call("t", "throttled"), call("t")],
        [],
        [],
        (1, 0, 0),
    ),
    (
        "non-idempotent, worker died in the call, which then succeeded: dead, outcome unknown",
        NON_IDEMPOTENT,
        [call("t")],
        [dead("t", "outcome_unknown")],
        [],
        (0, 1, 0),
    ),
    (
        "another run's message in the same broker is not ours",
        ONCE,
        [call("t")],
        [],
        ["other"],
        (1, 0, 0),
    ),
]


@pytest.mark.parametrize(
    ("tasks", "calls", "rows", "waiting", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in BALANCED],
)
def test_a_right_outcome_balances(
    tasks: list[Published],
    calls: list[CallRecord],
    rows: list[DeadRow],
    waiting: list[str],
    expected: tuple[int, int, int],
) -> None:
    """Each task that ended as it may is counted exactly once, and the run passes."""
    result = tally(tasks, calls, rows, waiting)
    assert (result.succeeded, result.dead, result.waiting) == expected
    assert result.balanced


WRONG: list[tuple[str, list[Published], list[CallRecord], list[DeadRow], str]]
WRONG = [
    ("published and never seen again", ONCE, [], [], "lost"),
    ("every call failed and no dead letter", ONCE, [call("t", "transient")], [], "lost"),
    ("only ever turned away, and gone", ONCE, [call("t", "rejected")], [], "lost"),
    ("the call never ended and nothing says so", ONCE, [call("t", ended=None)], [], "lost"),
    (
        "non-idempotent, called again after a success",
        NON_IDEMPOTENT,
        [call("t"), call("t", key="k2")],
        [],
        "duplicated",
    ),
    (
        "non-idempotent, called again after a failure that may have had its effect",
        NON_IDEMPOTENT,
        [call("t", "transient"), call("t")],
        [],
        "duplicated",
    ),
    (
        "non-idempotent, called again while its first call hangs",
        NON_IDEMPOTENT,
        [call("t", ended=None), call("t", "repeated")],
        [],
        "duplicated",
    ),
    (
        "idempotent, but the key changed between two successes",
        ONCE,
        [call("t", key="a"), call("t", key="b")],
        [],
        "duplicated",
    ),
    (
        "idempotent, two successes without any key",
        ONCE,
        [call("t", key=""), call("t", key="")],
        [],
        "duplicated",
    ),
    ("succeeded, and a dead letter denies it", ONCE, [call("t")], [dead("t")], "contradicted"),
    ("two dead letters for one death", ONCE, [], [dead("t"), dead("t")], "contradicted"),
    ("a call by a task nobody published", ONCE, [call("t"), call("ghost")], [], "unexpected"),
]


@pytest.mark.parametrize(
    ("tasks", "calls", "rows", "fault"), [pytest.param(*row[1:], id=row[0]) for row in WRONG]
)
def test_an_injected_fault_is_named(
    tasks: list[Published], calls: list[CallRecord], rows: list[DeadRow], fault: str
) -> None:
    """A lost, doubled, denied or made-up task fails the run under its own name and no other."""
    result = tally(tasks, calls, rows, [])
    assert not result.balanced
    assert [name for name in FAULTS if getattr(result, name)] == [fault]


FAULTS = ("lost", "duplicated", "contradicted", "unexpected")


def test_one_fault_among_many_right_ones_is_found() -> None:
    """One lost task of a thousand is found by its id."""
    tasks = published(*(f"t{n}" for n in range(1000)))
    calls = [call(f"t{n}", number=n, began=n) for n in range(1000) if n != 517]
    result = tally(tasks, calls, [], [])
    assert result.lost == ("t517",)
    assert result.succeeded == 999


def test_the_makespan_runs_between_accepted_calls() -> None:
    """Rejected calls do not stretch the makespan, and calls are counted by verdict."""
    result = tally(
        published("a", "b"),
        [
            call("a", "rejected", began=0),
            call("a", began=10_000),
            call("b", "throttled", began=20_000),
            call("b", began=510_000),
            call("b", "rejected", began=900_000),
        ],
        [],
        [],
    )
    assert result.makespan == 500_000
    assert (result.upstream_calls, result.upstream_rejected, result.upstream_throttled) == (5, 2, 1)


def test_nothing_published_balances() -> None:
    """An empty run has no makespan and no fault."""
    assert tally([], [], [], []) == Tally(0, 0, 0, 0, (), (), (), (), 0, 0, 0, 0)


def test_a_growing_file_is_read_line_by_whole_line(tmp_path: Path) -> None:
    """A line is read once, and only when its end has been written."""
    path = tmp_path / "lines"
    lines = JsonLines(path)
    assert list(lines.read()) == []
    path.write_bytes(b'{"a":1}\n{"a":')
    assert list(lines.read()) == [{"a": 1}]
    assert list(lines.read()) == []
    with path.open("ab") as file:
        file.write(b"2}\n")
    assert list(lines.read()) == [{"a": 2}]


def test_a_call_without_an_end_is_seen(tmp_path: Path) -> None:
    """A call whose client died is in the ledger, executed and not succeeded."""
    path = tmp_path / "ledger"
    began = {"event": "began", "call": 1, "task": "t", "key": "k", "api": "x", "verdict": "ok"}
    path.write_text(json.dumps({**began, "mono": 5}) + "\n")
    ledger = CallLedger(path)
    ledger.read()
    (only,) = ledger.calls
    assert only.executed
    assert not only.succeeded
    assert ledger.succeeded == set()
    with path.open("a") as file:
        file.write(json.dumps({"event": "ended", "call": 1, "answered": False, "mono": 9}) + "\n")
    ledger.read()
    assert ledger.succeeded == {"t"}
