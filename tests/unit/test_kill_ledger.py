"""The account of a kill loop must find what it exists to find."""

from __future__ import annotations

import pytest

from governor.ports import Reason
from tests.faults.kill_ledger import Begun, account

UNKNOWN, LOST_CHILD = Reason.OUTCOME_UNKNOWN, Reason.WORKER_LOST
ONCE, TWICE = [Begun("t", 0)], [Begun("t", 0), Begun("t", 0)]

WELL = [
    # what happened, kind, begun, done, rows
    ("ran", "call", ONCE, True, []),
    ("ran twice, as it may", "call", TWICE, True, []),
    ("ran once", "call_once", ONCE, True, []),
    ("killed in the middle", "call_once", ONCE, False, [UNKNOWN]),
    ("killed after its last line", "call_once", ONCE, True, [UNKNOWN]),
    ("killed before its first line", "call_once", [], False, [UNKNOWN]),
    ("killed too often", "call", TWICE, False, [LOST_CHILD]),
    ("tried again", "flaky", [Begun("t", 0), Begun("t", 1)], True, []),
    ("failed", "wrong", ONCE, False, [Reason.NOT_RETRYABLE]),
    ("failed", "wrong_once", ONCE, False, [Reason.NOT_IDEMPOTENT]),
]


@pytest.mark.parametrize(("what", "kind", "begun", "done", "rows"), WELL)
def test_what_may_be_is_no_fault(
    what: str, kind: str, begun: list[Begun], done: bool, rows: list[Reason]
) -> None:
    """Each way in which a task may end leaves a clean account."""
    found = account({"t": kind}, begun, {"t"} if done else set(), [("t", row) for row in rows])
    assert not found.faults(), what
    assert found.succeeded + found.dead == 1


ILL = [
    # what happened, kind, begun, done, rows, fault
    ("vanished", "call", [], False, [], "lost"),
    ("vanished after it began", "call_once", ONCE, False, [], "lost"),
    ("failed without a row", "wrong", ONCE, False, [], "lost"),
    ("called twice", "call_once", TWICE, True, [], "doubled"),
    ("called twice, at two attempts", "call_once", [*ONCE, Begun("t", 1)], True, [], "doubled"),
    ("two rows for one death", "call_once", ONCE, False, [UNKNOWN, UNKNOWN], "rows"),
    ("died of nothing", "call", [], False, [Reason.EXPIRED], "unexpected"),
    ("failed, says a row that is wrong", "call_once", ONCE, True, [Reason.NOT_IDEMPOTENT],
     "unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "kind", "begun", "done", "rows", "fault"), ILL)
def test_what_must_not_be_is_a_fault(
    what: str, kind: str, begun: list[Begun], done: bool, rows: list[Reason], fault: str
) -> None:
    """Each thing that must not happen is named, and nothing else is."""
    found = account({"t": kind}, begun, {"t"} if done else set(), [("t", row) for row in rows])
    assert set(found.faults()) == {fault}, what


def test_a_stranger_is_unexpected() -> None:
    """A body, or a row, of a task that was never published is named."""
    found = account({}, [Begun("a", 0)], set(), [("b", UNKNOWN)])
    assert found.faults() == {"unexpected": ["a", "b"]}


def test_what_the_broker_lost_is_counted_apart() -> None:
    """A message that the broker handed out and never noted is a loss, but not the worker's."""
    found = account({"t": "call", "u": "call"}, [], set(), [], unnoted={"t"})
    assert found.lost == ["t", "u"]
    assert found.lost_by_broker == ["t"]
    assert found.faults() == {"lost": ["u"]}
