"""Calls know by themselves that they are processed: post-processing reports it.

What was processed before this becomes known as well, since the worker's new consumer starts with
all results that the broker has.

Revision ID: 5e0c9a7d41f6
Revises: 7b1e93c5d204
Created: 2026-11-23 01:31:25.904117
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "5e0c9a7d41f6"
down_revision: str | Sequence[str] | None = "7b1e93c5d204"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Apply."""
    op.add_column("calls", sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("calls", sa.Column("transcript_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("calls", "transcript_id")
    op.drop_column("calls", "processed_at")
