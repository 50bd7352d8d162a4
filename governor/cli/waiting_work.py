"""The tasks that a command of ``governor waiting`` was given, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from governor.cli import options, printing
from governor.cli.environment import Environment
from governor.cli.options import NOTHING_MATCHED
from governor.operations.parking_changes import ParkingChanged
from governor.operations.parking_status import Parked

DONE, SOME_FAILED = 0, 1

NOT_PARKED = "{0} is not parked: governor explain {0} asks the workers and the dead letters"
_RELEASED = "{0} is released already: stop it with celery -A APP control revoke {0}"


class Work:
    """The tasks a command was given: those that are parked, and what becomes of them."""

    def __init__(self, environment: Environment, task_ids: Sequence[str], *, as_json: bool) -> None:
        standing = environment.standing()
        parked = environment.parked(standing)
        self.steering = environment.parked_steering(standing, options.actor())
        self.tasks: list[Parked] = []
        self._as_json = as_json
        self._done = ParkingChanged()
        self._not_done: dict[str, str] = {}
        with progress("Looking for the tasks …"):
            for task_id in dict.fromkeys(task_ids):
                found = parked.find(task_id)
                if not found:
                    self._leave(task_id, NOT_PARKED.format(task_id))
                elif any(each.released for each in found):
                    self._leave(task_id, _RELEASED.format(task_id))
                self.tasks += [each for each in found if not each.released]

    def did(self, steered: ParkingChanged) -> None:
        """Part of it was done."""
        self._done.done += steered.done
        self._done.gone += steered.gone
        self._done.problems |= steered.problems

    def report(self, said: str) -> int:
        """Say what was done, and of which tasks it was not: the exit code."""
        done, problems = self._done.done, self._done.problems
        if self.tasks and not self._as_json:
            click.echo(f"{len(done)} {said}.")
        for task in self._done.gone:
            why = f"{task.task_id}: it waits there already, or was released meanwhile"
            self._leave(task.task_id, why)
        for task_id, problem in problems.items():
            click.echo(printing.printable(f"{task_id}: {problem}"), err=True)
        if self._as_json:
            printing.as_json(
                {
                    "done": [task.task_id for task in done],
                    "not_done": self._not_done,
                    "problems": problems,
                }
            )
        if not self.tasks:
            return NOTHING_MATCHED
        return SOME_FAILED if self._not_done or problems else DONE

    def _leave(self, task_id: str, why: str) -> None:
        self._not_done[task_id] = why
        click.echo(printing.printable(why), err=True)


def progress(said: str) -> Any:
    """Show on stderr what is being done, at a terminal."""
    return Console(stderr=True).status(said)
