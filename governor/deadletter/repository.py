"""Dead letters in SQL: written once for each death, read in groups, replayed once.

::

    dead ──claim──▶ replaying ──published──▶ replayed ──success──▶ resolved
     ▲                  │
     └── idempotent ────┤ lease over, or the publish failed
          needs_review ◀┘ not idempotent: the copy may have been sent

A success seen for the replay's task id resolves the row from whichever of these states.
A row in ``needs_review`` may be claimed again when the operator confirms: the task id is the
same one, so the worker's claim drops the copy that comes second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, or_
from sqlalchemy.engine import URL

from governor.clock import SECOND, Clock, SystemClock
from governor.deadletter import reading, recording
from governor.deadletter.engine import (
    TIMEOUT,
    bounded,
    bounded_engine,
    first_line,
    is_refusal,
    shown,
)
from governor.deadletter.identity import replay_id
from governor.deadletter.models import DEAD_LETTERS, State
from governor.deadletter.reading import AuditEntry, DeadGroup, Filters
from governor.deadletter.rows import (
    DeadLetter,
    in_ascii,
    row_values,
    stored_message,
)
from governor.deadletter.texts import Redact, storable
from governor.deadletter.transitions import MOVABLE, WORKER, Transitions
from governor.deadletter.verdict import Verdict
from governor.errors import (
    Changed,
    DatabaseUnavailable,
    ReplayRefused,
    RowRefused,
    UnknownDeadLetter,
)
from governor.ports import Death, MessageCopy

LEASE = 60 * SECOND
"""How long a claimed replay may take to be published."""
RESOLVED_KEPT = 30 * 86_400 * SECOND
_MOST_RELEASED = 500
"""Claims that one transaction releases."""


@dataclass(frozen=True, slots=True)
class ReplayClaim:
    """The right to publish one replay until ``lease_until`` (µs).

    ``message`` is the recorded one; ``execution.replay.replay_message`` makes the new one.
    """

    dead_letter_id: str
    replay_task_id: str
    generation: int
    message: MessageCopy
    payload_sha256: str
    idempotency_key: str | None
    lease_until: int


class SqlDeadLetters:
    """Dead letters in SQLite or PostgreSQL; implements :class:`governor.ports.DeadLetters`.

    Safe to share between threads and to inherit over a fork.

    Args:
        database: a database URL, or an engine from :func:`.engine.bounded_engine`.
        redact: applied to every text of a death before it is written.
        clock: says when a row was written; all other times are arguments.
        timeout: seconds a call may take.

    Raises:
        ConfigurationError: the URL names no database the governor can use.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        redact: Redact,
        clock: Clock | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._engine = (
            database if isinstance(database, Engine) else bounded_engine(database, timeout=timeout)
        )
        self._redact = redact
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._edges = Transitions(redact)
        self._pid = os.getpid()

    def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        self._engine.dispose()

    # ------------------------------------------------------------------ writing deaths

    def record(self, death: Death) -> str:
        """See :meth:`governor.ports.DeadLetters.record`.

        Raises:
            RowRefused: the database is there and refuses this row.
        """
        recorded_at = self._clock.wall()
        try:
            values = row_values(
                death,
                row_id=self._edges.new_id(death.dead_at),
                recorded_at=recorded_at,
                redact=self._redact,
            )
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
                ValueError) as error:  # fmt: skip
            raise RowRefused(
                f"No row can be made of the death of a message: {type(error).__name__}"
            ) from error
        try:
            return self._write(death, values)
        except RowRefused as error:
            return self._write(death, in_ascii(values, type(error.__cause__).__name__))

    def _write(self, death: Death, values: dict[str, Any]) -> str:
        try:
            with self._transaction(write=True) as connection:
                return recording.record(connection, self._edges, death, values)
        except DatabaseUnavailable as error:
            if is_refusal(error.__cause__):
                raise self._refused(values, error.__cause__) from error.__cause__
            raise
        except (UnicodeError, OverflowError) as error:
            # The driver's own, which SQLAlchemy lets pass.
            raise self._refused(values, error) from error

    def _refused(self, values: Mapping[str, Any], error: BaseException | None) -> RowRefused:
        what = f"{values['task_name']}[{values['task_id']}]"
        return RowRefused(
            f"The dead-letter database {shown(self._engine.url)} refuses the row of task {what}: "
            f"{first_line(error)}"
        )

    # ------------------------------------------------------------------ reading

    def groups(self, since: int | None = None) -> tuple[DeadGroup, ...]:
        """The largest groups of rows in state ``dead`` that died at ``since`` (µs) or later.

        Raises:
            DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            return reading.groups(connection, since)

    def count(self, filters: Filters) -> int:
        """How many dead letters match.

        Raises:
            DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            return reading.count(connection, filters)

    def list(self, filters: Filters, limit: int = 100) -> tuple[DeadLetter, ...]:
        """The newest dead letters that match, newest first.

        Raises:
            DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            return reading.newest(connection, filters, limit)

    def get(self, dead_letter_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            UnknownDeadLetter, DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            found = reading.one(connection, dead_letter_id)
        if found is None:
            raise UnknownDeadLetter(f"There is no dead letter {dead_letter_id}")
        return found

    def of_task(self, task_id: str) -> tuple[DeadLetter, ...]:
        """The dead letters of this task, and those of which it is the replay, newest first.

        Raises:
            DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            return reading.of_task(connection, storable(task_id))

    def audit(self, dead_letter_id: str) -> tuple[AuditEntry, ...]:
        """Every change of one dead letter, oldest first.

        Raises:
            DatabaseUnavailable
        """
        with self._transaction(write=False) as connection:
            return reading.audit(connection, dead_letter_id)

    # ------------------------------------------------------------------ replaying

    def claim_replay(
        self,
        dead_letter_id: str,
        version: int,
        now: int,
        actor: str,
        reason: str,
        *,
        confirm_not_idempotent: bool = False,
    ) -> ReplayClaim:
        """Take the right to publish this replay; its task id is committed before it is sent.

        Args:
            version: the row's version when the operator saw it.

        Raises:
            Changed: it is not as it was seen, or it is being replayed, or it was.
            ReplayRefused: it cannot be replayed, or must be confirmed and was not.
            UnknownDeadLetter, DatabaseUnavailable
        """
        with self._transaction(write=True) as connection:
            row = self._edges.locked(connection, dead_letter_id, with_message=True)
            state = State(row["state"])
            if row["version"] != version or state not in {State.DEAD, State.NEEDS_REVIEW}:
                raise Changed(
                    f"{dead_letter_id} is {state.value}, version {row['version']}; "
                    f"it was version {version} when it was read"
                )
            verdict = Verdict(row["replay_verdict"])
            if verdict is Verdict.IMPOSSIBLE or (
                verdict is Verdict.NEEDS_CONFIRMATION and not confirm_not_idempotent
            ):
                raise ReplayRefused(f"{dead_letter_id}: {row['replay_why']}")
            try:
                message = stored_message(row)
            except ValueError as error:
                raise ReplayRefused(f"{dead_letter_id}: {error}") from error
            claim = ReplayClaim(
                dead_letter_id=dead_letter_id,
                replay_task_id=replay_id(dead_letter_id, row["generation"]),
                generation=row["generation"],
                message=message,
                payload_sha256=row["payload_sha256"],
                idempotency_key=row["idempotency_key"] or row["task_id"],
                lease_until=now + LEASE,
            )
            self._edges.move(
                connection,
                row,
                State.REPLAYING,
                now,
                actor=actor,
                action="replay_claimed",
                reason=reason,
                replay_task_id=claim.replay_task_id,
                replay_count=row["replay_count"] + 1,
                lease_until=claim.lease_until,
            )
            return claim

    def mark_replayed(self, claim: ReplayClaim, now: int, actor: str) -> State:
        """The broker confirmed this replay; returns the state the row is in now.

        A row whose lease ended meanwhile becomes ``replayed`` all the same (it was sent); one
        whose success was already seen stays ``resolved``.

        Raises:
            UnknownDeadLetter, DatabaseUnavailable
        """
        with self._transaction(write=True) as connection:
            row = self._edges.locked(connection, claim.dead_letter_id)
            state = State(row["state"])
            ours = row["replay_task_id"] == claim.replay_task_id
            if not ours or state in {State.REPLAYED, State.RESOLVED}:
                return state
            self._edges.move(
                connection,
                row,
                State.REPLAYED,
                now,
                actor=actor,
                action="replay_published",
                lease_until=None,
            )
            return State.REPLAYED

    def release_claim(self, claim: ReplayClaim, now: int, actor: str, why: str) -> State:
        """The publish failed, and may have succeeded unseen; returns the new state.

        Raises:
            UnknownDeadLetter, DatabaseUnavailable
        """
        with self._transaction(write=True) as connection:
            row = self._edges.locked(connection, claim.dead_letter_id)
            if row["state"] != State.REPLAYING or row["lease_until"] != claim.lease_until:
                return State(row["state"])
            return self._edges.release(connection, row, now, actor, f"publish failed: {why}")

    def release_expired(self, now: int) -> int:
        """Release claims whose lease is over; returns how many.

        Raises:
            DatabaseUnavailable
        """
        over = (
            reading.columns(*MOVABLE)
            .where(reading.in_state(State.REPLAYING), DEAD_LETTERS.c.lease_until <= now)
            .order_by(DEAD_LETTERS.c.id)
            .limit(_MOST_RELEASED)
            .with_for_update(skip_locked=True)
        )
        with self._transaction(write=True) as connection:
            rows = connection.execute(over).mappings().all()
            for row in rows:
                self._edges.release(connection, row, now, WORKER, "the claim's lease is over")
        return len(rows)

    def replay_succeeded(self, replay_task_id: str, at: int) -> None:
        """See :meth:`governor.ports.DeadLetters.replay_succeeded`.

        The whole lineage is resolved: the dead letters whose replays died on the way here too.
        """
        with self._transaction(write=True) as connection:
            found = connection.execute(
                reading.columns("id", "origin_id", "generation").where(
                    DEAD_LETTERS.c.replay_task_id == storable(replay_task_id)
                )
            ).first()
            if found is None:
                return
            origin = found.origin_id or found.id
            lineage = (
                reading.columns(*MOVABLE)
                .where(
                    or_(
                        DEAD_LETTERS.c.id == found.id,
                        or_(DEAD_LETTERS.c.id == origin, DEAD_LETTERS.c.origin_id == origin)
                        & (DEAD_LETTERS.c.generation < found.generation)
                        & (DEAD_LETTERS.c.state == State.REPLAYED.value),
                    )
                )
                .where(DEAD_LETTERS.c.state != State.RESOLVED.value)
                .order_by(DEAD_LETTERS.c.id)
                .with_for_update()
            )
            for row in connection.execute(lineage).mappings().all():
                self._edges.move(
                    connection,
                    row,
                    State.RESOLVED,
                    at,
                    actor=WORKER,
                    action="replay_succeeded",
                    reason=f"task {replay_task_id} succeeded",
                    lease_until=None,
                    expires_at=at + RESOLVED_KEPT,
                )

    def _transaction(self, *, write: bool) -> Any:
        if os.getpid() != self._pid:
            # After a fork the connections belong to the parent: leave them, open our own.
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        return bounded(self._engine, timeout=self._timeout, write=write)
