"""Rows are counted by state, reason and task without being read."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLE, _INDEX = "governor_dead_letters", "ix_governor_dl_counts"


def upgrade() -> None:
    op.create_index(_INDEX, _TABLE, ["state", "reason", "task_name", "dead_at"])


def downgrade() -> None:
    op.drop_index(_INDEX, _TABLE)
