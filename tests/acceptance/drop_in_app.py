"""One ordinary app, whose task class is the only thing that varies.

Its tasks name no upstream. ``$VARIANT`` says which variant a worker process runs; tests in one
process call :func:`build`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from celery import Celery, Task, chain, chord, group, signals
from celery.exceptions import Ignore, Reject

from governor import GovernedTask, Governor

# Celery as it is; our task class; our task class and the governor in the worker.
VARIANTS = ("plain", "class", "governor")

SIGNALS = (
    "before_task_publish", "after_task_publish", "task_received", "task_prerun", "task_postrun",
    "task_retry", "task_success", "task_failure", "task_internal_error", "task_revoked",
    "task_rejected", "task_unknown",
)  # fmt: skip


def build(variant: str, **conf: Any) -> Celery:
    """The app; ``app.heard`` lists its signals and hooks in the order they were called."""
    cls = Task if variant == "plain" else GovernedTask
    app = Celery("drop-in", task_cls=cls, **{"set_as_current": False, **conf})
    app.heard = []
    if variant == "governor":
        app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        Governor(app)
    for run, options in BODIES:
        app.task(shared=False, name=f"drop.{run.__name__}", **options)(run)
    hooks = type("Hooks", (Hooks, app.Task), {"abstract": True})
    app.task(shared=False, name="drop.hooked", base=hooks, **HOOKED)(hooked)
    app.register_task(type("Counter", (Counter, app.Task), {})())
    app.register_task(type("Wrapped", (Wrapped, app.Task), {})())
    app.finalize()
    return app


def listen(app: Celery) -> None:
    """Have every signal about the app's tasks written to ``app.heard``: its name, its task, its
    arguments and their types."""
    for name in SIGNALS:
        receiver = _receiver(app, name)
        getattr(signals, name).connect(receiver, weak=False, dispatch_uid=f"drop-in {name}")


def deafen() -> None:
    for name in SIGNALS:
        getattr(signals, name).disconnect(dispatch_uid=f"drop-in {name}")


def _receiver(app: Celery, name: str) -> Any:
    def heard(sender: Any = None, **arguments: Any) -> None:
        if isinstance(sender, Task) and sender.app is not app:
            return
        task = sender if isinstance(sender, str) else getattr(sender, "name", None)
        del arguments["signal"]
        shape = {key: _shape(value) for key, value in sorted(arguments.items())}
        app.heard.append([name, task, shape])

    return heard


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted(value)
    if isinstance(value, Task):
        return f"task {value.name}"
    return type(value).__name__


class Hooks:
    """A project's own base class: it hears of everything."""

    def before_start(self, *_: Any) -> None:
        self.app.heard.append("before_start")

    def on_success(self, result: Any, *_: Any) -> None:
        self.app.heard.append(f"on_success {result!r}")

    def on_failure(self, exc: Any, *_: Any) -> None:
        self.app.heard.append(f"on_failure {exc!r}")

    def after_return(self, status: str, *_: Any) -> None:
        self.app.heard.append(f"after_return {status}")


class Counter:
    """A task that is an object, with state and a constructor of its own."""

    name = "drop.counter"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def run(self, by: int = 1) -> int:
        self.calls += by
        return self.calls


class Wrapped:
    """A task with a ``__call__`` of its own."""

    name = "drop.wrapped"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]  # type: ignore[misc]

    def run(self, x: int) -> int:
        return x


def add(x: int, y: int = 0) -> int:
    return x + y


def total(numbers: list[int]) -> int:
    return sum(numbers)


def stack(self: Any) -> list[Any]:
    """What is around the body: the requests, and the functions down from Celery's tracer. What
    called that is the pool."""
    frame: Any = sys._getframe()
    callers: list[str] = []
    while not (callers and callers[-1] in {"fast_trace_task", "apply"}):
        callers.append(frame.f_code.co_name)
        frame = frame.f_back
    return [len(self.request_stack), callers]


def context(self: Any, value: Any = None) -> dict[str, str]:
    """What the body knows of its request, without what is different each time."""
    seen = vars(self.request)
    ids = {"id", "root_id", "parent_id", "correlation_id", "reply_to", "hostname", "origin",
           "delivery_info", "properties", "worker_pid", "headers", "timelimit"}  # fmt: skip
    headers = {"headers": repr(sorted(seen.get("headers") or {}))}
    return {key: repr(seen[key]) for key in sorted(seen) if key not in ids} | headers


def fail(message: str) -> None:
    raise ValueError(message)


def ignore() -> None:
    raise Ignore


def reject() -> None:
    raise Reject("no", requeue=False)


def again(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0, exc=KeyError("again"))
    return int(self.request.retries)


def never(self: Any) -> None:
    raise self.retry(countdown=0, max_retries=1, exc=KeyError("never"))


def automatic(self: Any) -> int:
    if self.request.retries < 2:
        raise ConnectionError("reset by peer")
    return int(self.request.retries)


def calls_another(self: Any) -> list[int]:
    return [self.app.tasks["drop.add"](1, 2), len(self.request_stack)]


def replaced(self: Any) -> Any:
    return self.replace(self.app.tasks["drop.add"].s(40, 2))


def hooked(x: int) -> float:
    return 1 / x


BODIES: list[tuple[Any, dict[str, Any]]] = [
    (add, {}),
    (total, {}),
    (stack, {"bind": True}),
    (context, {"bind": True}),
    (fail, {}),
    (ignore, {}),
    (reject, {"acks_late": True}),
    (again, {"bind": True, "max_retries": 3}),
    (never, {"bind": True}),
    (automatic, {"bind": True, "autoretry_for": (ConnectionError,), "retry_backoff": False,
                 "default_retry_delay": 0, "max_retries": 5}),
    (calls_another, {"bind": True}),
    (replaced, {"bind": True}),
]  # fmt: skip
HOOKED = {"acks_late": True, "rate_limit": "600/m", "reject_on_worker_lost": True}

# a task, its arguments
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("add", (1, 2)),
    ("stack", ()),
    ("context", ({"a": [1]},)),
    ("fail", ("no such thing",)),
    ("ignore", ()),
    ("reject", ()),
    ("again", ()),
    ("never", ()),
    ("automatic", ()),
    ("calls_another", ()),
    ("replaced", ()),
    ("hooked", (2,)),
    ("hooked", (0,)),
    ("counter", (3,)),
    ("counter", ()),
    ("wrapped", (1,)),
]


def canvas(app: Celery) -> dict[str, Any]:
    """Canvas of every kind."""
    task, summed = app.tasks["drop.add"], app.tasks["drop.total"]
    members = [task.s(n, n) for n in range(3)]
    return {
        "chain": chain(task.s(1, 2), task.s(3), task.s(4), app=app),
        "group": group(members, app=app),
        "chord": chord(members, summed.s(), app=app),
        "chain with a group": chain(task.s(1), group([task.s(2), task.s(3)]), summed.s(), app=app),
        "immutable": chain(task.s(1, 2), task.si(5, 6), app=app),
        "chunks": task.chunks([(1, 2), (3, 4), (5, 6)], 2),
    }


def _write(app: Celery) -> None:
    """A worker's last words: what was heard, by task."""
    with open(os.environ["HEARD"], "w") as file:
        for what in app.heard:
            task = what[1] if isinstance(what, list) else "hooks"
            file.write(json.dumps([task, what]) + "\n")


def produce(variant: str, url: str) -> dict[str, Any]:
    """Have a worker run everything; what became of it."""
    app = build(variant, broker=url, backend=url)
    listen(app)
    record: dict[str, Any] = {}
    for number, (name, args) in enumerate(CALLS):
        result = app.tasks[f"drop.{name}"].apply_async(args)
        if name in {"ignore", "reject"}:
            continue  # no result ever comes
        result.get(timeout=30, propagate=False)
        record[f"{number} {name}"] = {
            "state": result.state,
            "result": repr(result.result),
            "traceback": result.traceback,
        }
    for name, shape in canvas(app).items():
        record[name] = shape.apply_async().get(timeout=30)
    record["published"] = app.heard
    return record


if "VARIANT" in os.environ:
    app = build(os.environ["VARIANT"], set_as_current=True)
    listen(app)
    signals.worker_shutdown.connect(lambda **_: _write(app), weak=False)
elif __name__ == "__main__":
    print(json.dumps(produce(*sys.argv[1:])))
