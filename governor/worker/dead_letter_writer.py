"""The worker's writer of dead letters: to the database, else to disk, and only then the message is
let go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from governor.clock import SECOND, micros
from governor.errors import DatabaseUnavailable, RowRefused, SpillFailed
from governor.events import TaskDied
from governor.governor import Governor
from governor.log_lines import LOG
from governor.messages.message import copy_of, was_redelivered
from governor.ports import Death, MessageCopy, Reason
from governor.worker.death_facts import DeathFacts
from governor.worker.event_loop import Loop
from governor.worker.salvage import bare_death, reduced
from governor.worker.serial_executor import SerialExecutor

_DATABASE_AGAIN_US = 5 * SECOND
"""Microseconds for which a database that did not answer is left alone: the spill is faster than its
timeout."""

_WRITE_AGAIN_US = 5 * SECOND

_LAST_WRITE_S = 1.0
"""Seconds for which closing waits for the writing thread."""


class DeadLetterWriter:
    """Writer of one worker's dead letters, in order, on a thread of its own."""

    def __init__(self, governor: Governor, loop: Loop) -> None:
        self._governor = governor
        self._clock = governor.clock
        self._loop = loop
        self._executor = SerialExecutor("dead-letters", loop)
        self._facts = DeathFacts(governor)
        self._away_until = 0
        self._drain_planned = False
        self._plan_drain(0)

    def hold(
        self, request: Any, reason: Reason, why: str | None, exc_info: Any,
        then: Callable[[], None],
    ) -> None:  # fmt: skip
        """Write the death of a request's task, then call ``then`` on the loop."""
        copy = copy_of(request.message)
        now = self._clock.wall()
        whole = partial(self._facts.of_request, request, copy, reason, why, exc_info, now)
        self._write(partial(_made, whole, copy, reason, now, request.task.name), then)

    def hold_message(
        self, message: Any, reason: Reason, exc: BaseException | None, then: Callable[[], None]
    ) -> None:
        """Write the death of a message that never became a request."""
        copy = copy_of(message)
        now = self._clock.wall()
        redelivered = was_redelivered(message)
        whole = partial(self._facts.of_message, copy, reason, exc, now, redelivered)
        self._write(partial(_made, whole, copy, reason, now, None), then)

    def resolve(self, task_id: str) -> None:
        """Resolve the dead letter that a task replayed, which has succeeded."""
        now = self._clock.wall()

        def report(error: Exception | None) -> None:
            if error is not None:
                LOG.error("Replay %s succeeded, but its dead letter still says replayed", task_id)

        self._executor.submit(
            partial(self._governor.dead_letters.replay_succeeded, task_id, now), report
        )

    def idle(self) -> bool:
        """Tell whether every death is written."""
        return self._executor.idle()

    def close(self) -> None:
        """Write what is waiting to be written, and end the thread."""
        self._executor.close(_LAST_WRITE_S)

    def _write(self, make: Callable[[], Death], then: Callable[[], None]) -> None:
        def done(error: Exception | None) -> None:
            if error is None:
                self._follow(then)
                return
            LOG.critical(
                "A dead letter could be written neither to the database nor to disk (%s); its "
                "message stays unacknowledged", error,
            )  # fmt: skip
            self._loop.at(self._clock.monotonic() + _WRITE_AGAIN_US, submit)

        def submit() -> None:
            self._executor.submit(partial(self._record, make), done)

        submit()

    def _follow(self, then: Callable[[], None]) -> None:
        """Do what follows a death that is written, until it is done."""
        try:
            then()
        except Exception:
            LOG.exception("A dead letter is written, and its message is not acknowledged yet")
            self._loop.at(self._clock.monotonic() + _WRITE_AGAIN_US, partial(self._follow, then))

    def _record(self, make: Callable[[], Death]) -> None:
        death = make()
        now = self._clock.monotonic()
        if now >= self._away_until:
            try:
                self._to_database(death)
            except RowRefused as exc:
                path = self._to_disk(self._governor.spill.set_aside, death)
                LOG.error("%s. It is set aside: %s", exc, path)
                self._tell(death, "aside")
                return
            except DatabaseUnavailable as exc:
                self._away_until = self._clock.monotonic() + _DATABASE_AGAIN_US
                LOG.error("%s Dead letters go to %s", exc, self._governor.settings.spill_dir)
            else:
                LOG.warning("Task %s[%s] is dead: %s", death.task_name, death.task_id,
                             death.reason.value)  # fmt: skip
                self._tell(death, "database")
                return
        self._to_disk(self._governor.spill.append, death)
        self._tell(death, "disk")
        self._loop.soon(partial(self._plan_drain, _DATABASE_AGAIN_US))

    def _tell(self, death: Death, written: str) -> None:
        events = self._governor.events
        if events.listeners:
            events.emit(
                TaskDied(
                    self._clock.wall(), death.task_id or "", death.task_name or "",
                    death.upstream or "", death.reason.value, death.delivery,
                    micros(death.waited_seconds), death.deferrals, death.exc_type or "", written,
                )
            )  # fmt: skip

    def _to_database(self, death: Death) -> None:
        """Write the row; if its content is in the way, what can be kept of it.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        record = self._governor.dead_letters.record
        try:
            record(death)
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            _complain(death, exc)
            record(reduced(death, exc))

    def _to_disk(self, keep: Callable[[Death], Path], death: Death) -> Path:
        """Write the death to disk; if its content is in the way, what can be kept of it.

        Raises:
            SpillFailed: the disk is full or cannot be written.
        """
        try:
            return keep(death)
        except SpillFailed:
            raise
        except Exception as exc:
            _complain(death, exc)
            return keep(reduced(death, exc))

    def _plan_drain(self, delay: int) -> None:
        if not self._drain_planned:
            self._drain_planned = True
            self._loop.at(self._clock.monotonic() + delay, self._drain)

    def _drain(self) -> None:
        def done(error: Exception | None) -> None:
            self._drain_planned = False
            if error is not None:
                self._plan_drain(_DATABASE_AGAIN_US)

        self._executor.submit(self._drain_spill, done)

    def _drain_spill(self) -> None:
        spill = self._governor.spill
        if not spill.pending():
            return
        drained = spill.drain(self._governor.dead_letters)
        LOG.warning("%d spilled dead letters written to the database", drained.recorded)
        for line in drained.said:
            LOG.error("A spilled dead letter is set aside: %s", line)


def _made(
    make: Callable[[], Death], copy: MessageCopy, reason: Reason, now: int, task_name: str | None
) -> Death:
    """Make a death; when that fails, because of code of the task's, one of its message alone."""
    try:
        return make()
    except BaseException as exc:
        LOG.exception("A dead letter is written without its facts")
        return bare_death(copy, reason, exc, now, task_name)


def _complain(death: Death, error: Exception) -> None:
    LOG.error("Task %s[%s]: of its dead letter is written what can be kept; the whole raised %s",
               death.task_name, death.task_id, type(error).__name__)  # fmt: skip
