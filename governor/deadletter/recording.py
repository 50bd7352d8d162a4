"""Writing a death: one INSERT that a second one of the same death does not repeat."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from governor.deadletter import reading
from governor.deadletter.models import DEAD_LETTERS, State
from governor.deadletter.rows import stamped
from governor.deadletter.transitions import Transitions
from governor.errors import DatabaseUnavailable
from governor.ports import Death


def record(connection: Connection, edges: Transitions, death: Death, values: dict[str, Any]) -> str:
    """Write the row of a death, once; return the id of the row it has.

    The replay of a dead letter that dies is its child: one generation further, and a note in the
    parent's audit.
    """
    parent = None
    replay_of = stamped(death.message, "replay_of")
    if replay_of is not None:
        parent = connection.execute(
            reading.columns("id", "origin_id", "generation", "state", "version").where(
                DEAD_LETTERS.c.id == replay_of
            )
        ).first()
    if parent is not None:
        values["origin_id"] = parent.origin_id or parent.id
        values["generation"] = parent.generation + 1
    # Both dialects; the second of two inserts waits for the first and then does nothing.
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    written = connection.execute(
        upsert(DEAD_LETTERS).values(**values).on_conflict_do_nothing(),
        execution_options={"preserve_rowcount": True},  # else -1 for an INSERT
    )
    if written.rowcount != 1:
        return _first_id(connection, death, values)
    row_id = str(values["id"])
    edges.log(
        connection, row_id, values["recorded_at"], action="died", to_state=State.DEAD, version=1
    )
    if parent is not None:
        edges.log(
            connection,
            parent.id,
            values["recorded_at"],
            action="replay_died",
            from_state=State(parent.state),
            to_state=State(parent.state),
            version=parent.version,
            reason=f"died again as {row_id}",
        )
    return row_id


def _first_id(connection: Connection, death: Death, values: dict[str, Any]) -> str:
    if death.task_id is not None:
        same_death = (
            (DEAD_LETTERS.c.task_id == values["task_id"])
            & (DEAD_LETTERS.c.delivery == values["delivery"])
            & (DEAD_LETTERS.c.message_id == values["message_id"])
        )
    else:
        same_death = (
            DEAD_LETTERS.c.task_id.is_(None)
            & (DEAD_LETTERS.c.message_sha256 == values["message_sha256"])
            & (DEAD_LETTERS.c.state == State.DEAD.value)
        )
    found = connection.execute(reading.columns("id").where(same_death)).scalar()
    if found is None:
        raise DatabaseUnavailable("The first row of this death was removed meanwhile")
    return str(found)
