"""Outbox, archive, dead letters, leases and inbox."""

from alembic import op

from common.events.outbox.migrations import downgrade_outbox, upgrade_outbox

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    upgrade_outbox(op, revision)


def downgrade() -> None:
    """Undo."""
    downgrade_outbox(op, revision)
