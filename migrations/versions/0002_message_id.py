"""Messages under one task id are told apart: each has a death of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLE = "governor_dead_letters"


def _unique(name: str, *columns: str) -> None:
    condition = sa.text("task_id IS NOT NULL")
    op.create_index(
        name, _TABLE, [*columns], unique=True, sqlite_where=condition, postgresql_where=condition
    )


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("message_id", sa.String(16), nullable=False, server_default=""))
    # No message had an id before: each is known by its body.
    letters = sa.table(_TABLE, sa.column("message_id"), sa.column("payload_sha256"))
    op.execute(letters.update().values(message_id=sa.func.substr(letters.c.payload_sha256, 1, 16)))
    op.drop_index("uq_governor_dl_task_delivery", _TABLE)
    _unique("uq_governor_dl_task_message", "task_id", "delivery", "message_id")


def downgrade() -> None:
    # Refused by the index while two messages have died under one task id and attempt.
    op.drop_index("uq_governor_dl_task_message", _TABLE)
    _unique("uq_governor_dl_task_delivery", "task_id", "delivery")
    op.drop_column(_TABLE, "message_id")
