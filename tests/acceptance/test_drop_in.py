"""``Celery(task_cls=GovernedTask)`` changes nothing for tasks that name no upstream.

Everything observable is written down once with Celery's own class and once with ours, and
the two records must be equal: results, states, retries, canvas, the signals with the shape
of their arguments, hooks, the stack inside a body, tracebacks, attributes, pickles.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task
from celery.result import allow_join_result

from governor import GovernedTask
from tests.acceptance import drop_in_app
from tests.acceptance.drop_in_app import CALLS, canvas
from tests.servers.worker_process import ROOT, WorkerProcess

MODULE = "tests.acceptance.drop_in_app"
OURS = [variant for variant in drop_in_app.VARIANTS if variant != "plain"]

# What the class adds to a task.
ADDED = {"upstream", "limits", "idempotent", "retry_policy", "idempotency_key", "settle"}


def observe(app: Celery) -> dict[str, Any]:
    """Everything that can be seen of the app's tasks in eager mode."""
    app.conf.task_always_eager = True
    drop_in_app.listen(app)
    try:
        return _record(app)
    finally:
        drop_in_app.deafen()


def _record(app: Celery) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for number, (name, args) in enumerate(CALLS):
        result = app.tasks[f"drop.{name}"].apply_async(args)
        record[f"{number} {name}"] = {
            "state": result.state,
            "result": repr(result.result),
            "type": type(result.result).__name__,
            "traceback": result.traceback,
            "heard": app.heard[:],
        }
        app.heard.clear()
    for name, shape in canvas(app).items():
        with allow_join_result():
            result = shape.apply_async()
            record[name] = {"result": result.get(), "heard": app.heard[:]}
        app.heard.clear()
    record["direct"] = [app.tasks["drop.add"](1, y=2), app.tasks["drop.wrapped"](1)]
    with pytest.raises(TypeError) as caught:
        app.tasks["drop.add"].delay()
    record["missing argument"] = str(caught.value)
    record["frames"] = frames(app.tasks["drop.fail"])
    return record


def frames(task: Task) -> list[tuple[str, str, int | None]]:
    """The traceback of a direct call, without this function's own frame."""
    try:
        task("no such thing")
    except ValueError as exc:
        return [(f.filename, f.name, f.lineno) for f in traceback.extract_tb(exc.__traceback__)][1:]
    raise AssertionError("it did not fail")


def attributes(task: Task) -> dict[str, str]:
    """Every attribute that is a plain value, and where every method comes from."""
    record = {}
    for name in dir(task):
        if name in ADDED or name.startswith("__"):
            continue
        value = getattr(task, name)
        if callable(value):
            record[name] = getattr(value, "__qualname__", type(value).__name__)
        else:
            record[name] = re.sub(r" at 0x[0-9a-f]+|0x[0-9a-f]+", "", repr(value))
    return record


@pytest.mark.parametrize("variant", OURS)
def test_eager_mode_is_celerys_own(variant: str) -> None:
    """Results, states, tracebacks, canvas, signals, hooks and the stack inside a body are equal in
    eager mode."""
    plain, ours = (observe(drop_in_app.build(v)) for v in ("plain", variant))
    for name, seen in plain.items():
        assert ours[name] == seen, name
    # The record is not empty of what it claims to compare.
    assert plain["6 again"]["result"] == "2"
    signals = [heard[0] for heard in plain["0 add"]["heard"]]
    assert signals == ["task_prerun", "task_success", "task_postrun"]
    assert plain["1 stack"]["result"].startswith("[1, ['stack'")
    assert plain["chord"]["result"] == 6


@pytest.mark.parametrize("variant", OURS)
def test_attributes_are_celerys_own(variant: str) -> None:
    """Each task has the attributes and methods it would have, and five more."""
    plain, ours = (drop_in_app.build(v) for v in ("plain", variant))
    for name in plain.tasks:
        assert attributes(ours.tasks[name]) == attributes(plain.tasks[name]), name
    extra = set(dir(ours.tasks["drop.add"])) - set(dir(plain.tasks["drop.add"]))
    assert extra - {"__init_subclass__", "__getattr__"} == ADDED


@pytest.mark.parametrize("variant", drop_in_app.VARIANTS)
def test_tasks_are_pickled_by_name(variant: str) -> None:
    """A pickled task or signature comes back as the registered task of the current app."""
    app = drop_in_app.build(variant)
    app.set_current()
    try:
        for name in ("drop.add", "drop.counter", "drop.hooked"):
            task = app.tasks[name]
            assert pickle.loads(pickle.dumps(task)) is task
        signature = pickle.loads(pickle.dumps(app.tasks["drop.add"].s(1, y=2)))
        assert (signature.task, signature.args) == ("drop.add", (1,))
    finally:
        app.close()


def test_the_class_is_found_where_celery_puts_it() -> None:
    """``app.Task`` is ours, and every task is an instance of it."""
    app = drop_in_app.build("class")
    assert issubclass(app.Task, GovernedTask)
    own = [task for name, task in app.tasks.items() if name.startswith("drop.")]
    assert len(own) == len(drop_in_app.BODIES) + 3
    assert all(isinstance(task, GovernedTask) for task in own)


@pytest.mark.redis
@pytest.mark.worker
def test_real_workers_are_celerys_own(tmp_path: Path, redis_url: str) -> None:
    """The same in worker processes over a real broker: results, states, tracebacks, canvas,
    signals, hooks and the stack inside a body are equal."""
    records = {}
    for database, variant in enumerate(drop_in_app.VARIANTS, 1):
        url = redis_url.replace("/0", f"/{database}")
        log = tmp_path / f"{variant}.heard"
        with WorkerProcess(
            MODULE, url, backend_url=url, directory=tmp_path, pool="solo",
            env={"VARIANT": variant, "HEARD": str(log)},
        ) as worker:  # fmt: skip
            command = [sys.executable, "-m", MODULE, variant, url]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            records[variant] = json.loads(done.stdout)
            worker.terminate()
        records[variant]["heard"] = _by_task(log)
    plain = records.pop("plain")
    for variant, ours in records.items():
        for name, seen in plain.items():
            assert ours[name] == seen, f"{variant}: {name}"
    assert plain["0 add"]["result"] == "3"
    assert plain["3 fail"]["traceback"]
    assert plain["heard"]["drop.again"]
    assert plain["published"]


def _by_task(log: Path) -> dict[str, list[Any]]:
    heard: dict[str, list[Any]] = {}
    for line in log.read_text().splitlines():
        task, what = json.loads(line)
        heard.setdefault(task, []).append(what)
    return heard
