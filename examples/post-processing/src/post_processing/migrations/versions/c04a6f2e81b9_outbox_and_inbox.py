"""Outbox and inbox of common-events-outbox; this worker's own inbox goes.

Its marks move: what was handled stays handled. A worker of the release before this one cannot
mark messages from here on; it hands them back, and workers of this release handle them.

Revision ID: c04a6f2e81b9
Revises: 15754d1b44db
Created: 2026-11-22 22:11:02.730519
"""

from collections.abc import Sequence

from alembic import op

from common.events.outbox.migrations import downgrade_outbox, upgrade_outbox

revision: str = "c04a6f2e81b9"
down_revision: str | Sequence[str] | None = "15754d1b44db"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Apply."""
    op.execute("ALTER TABLE inbox RENAME CONSTRAINT pk_inbox TO pk_inbox_before")
    op.execute("ALTER TABLE inbox RENAME TO inbox_before")
    upgrade_outbox(op, "0001")
    op.execute(
        "INSERT INTO inbox (consumer, message_id, handled_at)"
        " SELECT split_part(message_id, '/', 1), substr(message_id, strpos(message_id, '/') + 1),"
        " created_at FROM inbox_before"
    )
    op.drop_table("inbox_before")


def downgrade() -> None:
    """Undo; events that wait in the outbox are lost, for the release before knows none."""
    op.execute(
        "CREATE TABLE inbox_after AS SELECT consumer || '/' || message_id AS message_id, handled_at"
        " FROM inbox"
    )
    downgrade_outbox(op, "0001")
    op.execute(
        'CREATE TABLE inbox (message_id text COLLATE "C" NOT NULL CONSTRAINT pk_inbox PRIMARY KEY,'
        " created_at timestamptz NOT NULL DEFAULT now(),"
        " updated_at timestamptz NOT NULL DEFAULT now())"
    )
    op.execute(
        "INSERT INTO inbox (message_id, created_at, updated_at)"
        " SELECT message_id, handled_at, handled_at FROM inbox_after"
    )
    op.drop_table("inbox_after")
