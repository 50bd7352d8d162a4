"""Answers of a worker to questions from outside: the tasks that wait in it, and how late bodies
start."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

COMMAND = "governor_waiting"

STARTS = "governor_starts"


@inspect_command(  # type: ignore[untyped-decorator]
    name=COMMAND, args=[("task_id", str)], signature="[task_id]"
)
def governor_waiting(state: Any, task_id: str | None = None, **_: Any) -> list[dict[str, Any]]:
    """Tasks that wait for a limit in this worker, or this one task."""
    dispatcher = _dispatcher(state)
    if dispatcher is None:
        return []
    waiting: list[dict[str, Any]] = dispatcher.waiting()
    return [task for task in waiting if task_id in {None, task["task_id"]}]


@inspect_command(name=STARTS)  # type: ignore[untyped-decorator]
def governor_starts(state: Any, **_: Any) -> dict[str, int]:
    """How late bodies start in this worker, microseconds: grace, how many were late, the last."""
    dispatcher = _dispatcher(state)
    told: dict[str, int] = {} if dispatcher is None else dispatcher.late_starts()
    return told


def _dispatcher(state: Any) -> Any:
    return getattr(getattr(state.app, "governor", None), "dispatcher", None)
