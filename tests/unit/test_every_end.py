"""Whatever fails between receiving a message and acknowledging it, the message has one end."""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.unit.simulated_worker import ENDS, POOL_SLOTS, SimulatedWorker

EXAMPLES = int(os.environ.get("GOVERNOR_EXAMPLES", "240"))
PARTS = 8
TASKS = ("again", "once", "deferred")
OURS = str(Path(sys.modules["governor"].__file__ or "").parent)
INSIDE = tuple(f"{OURS}/{part}" for part in ("policy", "stores", "testing"))
SENT = [
    (task, how)
    for task in TASKS
    for how in (*ENDS, "refused")
    # The policy tries only idempotent tasks again.
    if (task, how) != ("once", "tries again")
]
OWNER = {
    "guarded", "step", "stumbled", "finish", "move", "on_request", "on_loop", "_use_slot",
    "next", "_let_go", "_hand_back", "_is_parked", "run", "_has_slot", "bury", "on_failure",
    "acknowledge", "failed", "_dispatcher", "monotonic", "wall", "_wake", "_take_in",
    "_take_all_in", "_write_until_kept", "done", "_follow", "failure_info", "log", "emit", "tell",
    "__len__", "__reduce__",
}  # fmt: skip
"""The owner itself, and the ways into it: what it calls may fail, it may not."""


class Injected(Exception):
    """A failure that nothing expects."""


def is_inside(frame: Any) -> bool:
    """Tell whether a frame is of a part whose own calls do not fail, or was called by one."""
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        if frame.f_code.co_filename.startswith(INSIDE):
            return True
        frame = frame.f_back
    return False


@contextmanager
def failing(number: int) -> Iterator[Counter[str]]:
    """Let the call of ours with this number, counted from now on, raise as it begins.

    Yields the calls that were made, by name.
    """
    seen: Counter[str] = Counter()
    left = number

    def trace(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(OURS):
            return
        if is_inside(frame.f_back):
            # A store does all or nothing.
            return
        if code.co_name in OWNER or code.co_name.startswith("<") or code.co_flags & CO_GENERATOR:
            return
        seen[code.co_name] += 1
        left -= 1
        if left == 0:
            raise Injected(code.co_qualname)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def lives(worker: SimulatedWorker, number: int) -> tuple[Counter[str], list[str]]:
    """Send tasks that end in every way, while one call fails. The calls, and the tasks' ids."""
    with failing(number) as seen:
        sent = [worker.send(task, how) for task, how in SENT]
        worker.run_for(60)
    return seen, sent


def faults_of(worker: SimulatedWorker, sent: list[str], good: list[str]) -> list[str]:
    """List what is wrong at the end."""
    rows = Counter(death.task_id for death in worker.rows.deaths)
    found = [f"{task_id} is not acknowledged" for task_id in worker.broker.unacknowledged.values()]
    found += [
        f"{task_id} is lost" for task_id in sent if not (worker.began[task_id] or rows[task_id])
    ]
    found += [f"{task_id} has {n} rows" for task_id, n in rows.items() if n > 1]
    found += [f"{task_id} ran {worker.began[task_id]} times" for task_id in sent
              if task_id.startswith("once") and worker.began[task_id] > 1]  # fmt: skip
    found += [f"{task_id} did not run" for task_id in good if worker.began[task_id] != 1]
    if worker.pool.slots != POOL_SLOTS:
        found.append(f"{worker.pool.slots} pool slots are free")
    return found


def test_the_calls_that_may_fail_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test below can fail calls of every part between receiving and acknowledging."""
    seen, _ = lives(SimulatedWorker(tmp_path, monkeypatch), 0)
    assert {
        "admit_many", "settle", "park", "release", "copy_of", "retried", "deferred", "hold",
        "judge", "lane_of", "charges_of", "take", "wait_until", "enter", "prepare", "call_of",
    } <= seen.keys()  # fmt: skip


def test_the_calls_that_may_not_fail_exist() -> None:
    """A name that is left over would leave a call out under its new name, or keep one in."""
    defined = {
        node.name
        for path in Path(OURS).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert defined >= OWNER


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(3_600)
def test_a_failure_anywhere_leaves_one_end(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every task runs or is a row, its message is acknowledged, pool slots and leases are free, and
    twenty tasks that follow run."""
    random, total = Random(part), 0
    for example in range(EXAMPLES // PARTS):
        with pytest.MonkeyPatch.context() as patch:
            worker = SimulatedWorker(tmp_path, patch)
            # The first run of each part counts the calls, and none of them fails.
            number = random.randrange(1, total + 1) if example else 0
            seen, sent = lives(worker, number)
            total = total if example else sum(seen.values())
            good = [worker.send("again", "returns", "b") for _ in range(20)]
            worker.run_for(120)
            assert not faults_of(worker, sent, good), f"call {number} of {total} failed"
