"""What a worker answers when it is asked from outside: who waits in it."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

COMMAND = "governor_waiting"


@inspect_command(  # type: ignore[untyped-decorator]
    name=COMMAND, args=[("task_id", str)], signature="[task_id]"
)
def governor_waiting(state: Any, task_id: str | None = None, **_: Any) -> list[dict[str, Any]]:
    """Tasks that wait for a limit in this worker, or this one task."""
    gate = getattr(getattr(state.app, "governor", None), "gate", None)
    if gate is None:
        return []
    waiting: list[dict[str, Any]] = gate.waiting()
    return [task for task in waiting if task_id in {None, task["task_id"]}]
