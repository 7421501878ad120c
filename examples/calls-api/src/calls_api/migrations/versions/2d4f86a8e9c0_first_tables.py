"""The first tables.

Revision ID: 2d4f86a8e9c0
Revises:
Created: 2026-11-22 18:54:34.835894
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "2d4f86a8e9c0"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "calls",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("phone_number", sa.Text(collation="C"), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "initiated",
                "ringing",
                "in_progress",
                "completed",
                "failed",
                "no_answer",
                "busy",
                "cancelled",
                name="callstatus",
                native_enum=False,
                length=64,
            ),
            nullable=False,
        ),
        sa.Column("duration_seconds", sa.BigInteger(), nullable=True),
        sa.Column(
            "failure_reason",
            sa.Enum(
                "network_error",
                "user_busy",
                "no_answer",
                "rejected",
                "system_error",
                "invalid_number",
                "insufficient_balance",
                name="callfailurereason",
                native_enum=False,
                length=64,
            ),
            nullable=True,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_calls")),
    )
    op.create_index(
        "ix_calls_unpublished",
        "calls",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NOT NULL AND published_at IS NULL"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index(
        "ix_calls_unpublished",
        table_name="calls",
        postgresql_where=sa.text("ended_at IS NOT NULL AND published_at IS NULL"),
    )
    op.drop_table("calls")
