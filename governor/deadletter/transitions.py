"""The edges between the states of a dead letter, each one UPDATE and one audit row."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from governor.deadletter.identity import uuid7
from governor.deadletter.models import AUDIT, DEAD_LETTERS, State
from governor.deadletter.reading import columns
from governor.deadletter.texts import Redact, Texts, name
from governor.deadletter.verdict import Verdict
from governor.errors import Changed, UnknownDeadLetter

WORKER = "worker"
"""The actor of what happens without a person."""

MOVABLE = ("id", "state", "version", "idempotent", "replay_task_id", "lease_until")
"""The columns that an edge needs: not the message, which may be large."""


class Transitions:
    """The edges, made inside a transaction that the caller began."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact

    def new_id(self, wall: int) -> str:
        """An id that sorts by ``wall`` (µs)."""
        return uuid7(wall, os.urandom(10))

    def release(
        self, connection: Connection, row: RowMapping, now: int, actor: str, why: str
    ) -> State:
        """End a claim whose replay may or may not have been sent."""
        to = State.DEAD if row["idempotent"] else State.NEEDS_REVIEW
        changes: dict[str, Any] = {"lease_until": None}
        if to is State.NEEDS_REVIEW:
            changes["replay_verdict"] = Verdict.NEEDS_CONFIRMATION.value
            changes["replay_why"] = (
                f"a replay may have been sent as task {row['replay_task_id']}, and the task "
                "type is not declared idempotent"
            )
        self.move(
            connection, row, to, now, actor=actor, action="replay_released", reason=why, **changes
        )
        return to

    def locked(
        self, connection: Connection, dead_letter_id: str, *, with_message: bool = False
    ) -> RowMapping:
        """Read a row and lock it until the transaction ends.

        Raises:
            UnknownDeadLetter
        """
        query = (select(DEAD_LETTERS) if with_message else columns(*MOVABLE)).where(
            DEAD_LETTERS.c.id == dead_letter_id
        )
        row = connection.execute(query.with_for_update()).mappings().first()
        if row is None:
            raise UnknownDeadLetter(f"There is no dead letter {dead_letter_id}")
        return row

    def move(
        self,
        connection: Connection,
        row: RowMapping,
        to: State,
        at: int,
        *,
        actor: str,
        action: str,
        reason: str | None = None,
        **changes: Any,
    ) -> None:
        """One edge: one UPDATE that holds only in the state and version read, one audit row."""
        version = row["version"] + 1
        moved = connection.execute(
            update(DEAD_LETTERS)
            .where(DEAD_LETTERS.c.id == row["id"])
            .where(DEAD_LETTERS.c.state == row["state"], DEAD_LETTERS.c.version == row["version"])
            .values(state=to.value, version=version, state_at=at, **changes)
        )
        if moved.rowcount != 1:
            raise Changed(f"{row['id']} changed meanwhile")
        self.log(
            connection,
            row["id"],
            at,
            action=action,
            from_state=State(row["state"]),
            to_state=to,
            version=version,
            actor=actor,
            reason=reason,
        )

    def log(
        self,
        connection: Connection,
        dead_letter_id: str,
        at: int,
        *,
        action: str,
        to_state: State,
        version: int,
        from_state: State | None = None,
        actor: str = WORKER,
        reason: str | None = None,
    ) -> None:
        """One audit row, for a change made in the same transaction."""
        connection.execute(
            insert(AUDIT).values(
                id=self.new_id(at),
                dead_letter_id=dead_letter_id,
                at=at,
                actor=name(actor),
                action=action,
                reason=Texts(self._redact).redacted("reason", reason),
                from_state=None if from_state is None else from_state.value,
                to_state=to_state.value,
                version=version,
            )
        )
