"""The dead letters and their audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        "governor_dead_letters",
        columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def upgrade() -> None:
    op.create_table(
        "governor_dead_letters",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("task_id", sa.String(255), nullable=True),
        sa.Column("delivery", sa.BigInteger(), nullable=False),
        sa.Column("message_sha256", sa.String(64), nullable=False),
        sa.Column("root_id", sa.String(255), nullable=True),
        sa.Column("parent_id", sa.String(255), nullable=True),
        sa.Column("group_id", sa.String(255), nullable=True),
        sa.Column("chord_id", sa.String(255), nullable=True),
        sa.Column("origin_id", sa.String(36), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("task_name", sa.String(255), nullable=True),
        sa.Column("queue", sa.String(255), nullable=True),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=True),
        sa.Column("upstream", sa.String(255), nullable=True),
        sa.Column("limit_keys", sa.Text(), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=True),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("exc_type", sa.String(255), nullable=True),
        sa.Column("exc_message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("attempt_log", sa.Text(), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("fingerprint_version", sa.SmallInteger(), nullable=False),
        sa.Column("replay_verdict", sa.String(20), nullable=False),
        sa.Column("replay_why", sa.Text(), nullable=False),
        sa.Column("idempotent", sa.Boolean(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("payload_headers", sa.Text(), nullable=True),
        sa.Column("payload_properties", sa.Text(), nullable=True),
        sa.Column("payload_schema", sa.SmallInteger(), nullable=False),
        sa.Column("payload_key_id", sa.String(255), nullable=True),
        sa.Column("payload_sha256", sa.String(64), nullable=False),
        sa.Column("payload_size", sa.BigInteger(), nullable=False),
        sa.Column("truncated", sa.Text(), nullable=True),
        sa.Column("args_redacted", sa.Text(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("deferrals", sa.BigInteger(), nullable=False),
        sa.Column("waited_seconds", sa.Float(53), nullable=False),
        sa.Column("hostname", sa.String(255), nullable=True),
        sa.Column("celery_version", sa.String(40), nullable=True),
        sa.Column("app_version", sa.String(80), nullable=True),
        sa.Column("trace_id", sa.String(255), nullable=True),
        sa.Column("first_failed_at", sa.BigInteger(), nullable=True),
        sa.Column("dead_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("state_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("legal_hold", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("replay_task_id", sa.String(36), nullable=True),
        sa.Column("replay_count", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_governor_dead_letters"),
    )
    _partial("ix_governor_dl_expiry", ["expires_at"], "expires_at IS NOT NULL")
    _partial("ix_governor_dl_group", ["fingerprint", "dead_at"], "state = 'dead'")
    _partial("ix_governor_dl_lease", ["lease_until"], "state = 'replaying'")
    _partial("ix_governor_dl_origin", ["origin_id"], "origin_id IS NOT NULL")
    _partial("ix_governor_dl_replay", ["replay_task_id"], "replay_task_id IS NOT NULL")
    op.create_index("ix_governor_dl_state", "governor_dead_letters", ["state", "dead_at", "id"])
    op.create_index(
        "ix_governor_dl_task", "governor_dead_letters", ["task_name", "state", "dead_at"]
    )
    op.create_index("ix_governor_dl_tenant", "governor_dead_letters", ["tenant", "state"])
    _partial(
        "uq_governor_dl_message",
        ["message_sha256"],
        "task_id IS NULL AND state = 'dead'",
        unique=True,
    )
    _partial(
        "uq_governor_dl_task_delivery", ["task_id", "delivery"], "task_id IS NOT NULL", unique=True
    )
    op.create_table(
        "governor_dead_letter_audit",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("dead_letter_id", sa.String(36), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("from_state", sa.String(16), nullable=True),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_governor_dead_letter_audit"),
    )
    op.create_index(
        "ix_governor_dl_audit_letter", "governor_dead_letter_audit", ["dead_letter_id", "at"]
    )


def downgrade() -> None:
    op.drop_table("governor_dead_letter_audit")
    op.drop_table("governor_dead_letters")
