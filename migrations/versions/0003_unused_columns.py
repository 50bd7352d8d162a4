"""Columns that nothing has ever filled are gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLE = "governor_dead_letters"


def upgrade() -> None:
    for name in ("chord_id", "payload_key_id", "app_version", "legal_hold"):
        op.drop_column(_TABLE, name)


def downgrade() -> None:
    op.add_column(_TABLE, sa.Column("chord_id", sa.String(255), nullable=True))
    op.add_column(_TABLE, sa.Column("payload_key_id", sa.String(255), nullable=True))
    op.add_column(_TABLE, sa.Column("app_version", sa.String(80), nullable=True))
    op.add_column(
        _TABLE, sa.Column("legal_hold", sa.Boolean(), nullable=False, server_default=sa.false())
    )
