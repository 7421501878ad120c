"""The outbox takes the place of `calls.published_at`.

What was committed but not published moves into it, under the ids by which the broker and
consumers know repetitions: those that were published, but not marked, have no effect again.

Replicas of the release before this one cannot end calls from here on: their requests fail, change
nothing, and succeed elsewhere.

Revision ID: 7b1e93c5d204
Revises: 2d4f86a8e9c0
Created: 2026-11-22 22:06:11.418262
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from common.domain import idempotency_key
from common.domain.calls import CallCompleted
from common.events.core import Codec
from common.events.outbox.migrations import downgrade_outbox, upgrade_outbox

revision: str = "7b1e93c5d204"
down_revision: str | Sequence[str] | None = "2d4f86a8e9c0"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BATCH = 1000
UNPUBLISHED = sa.text(
    "SELECT call_id, phone_number, status, duration_seconds, failure_reason, ended_at FROM calls"
    " WHERE ended_at IS NOT NULL AND published_at IS NULL"
    " AND (CAST(:after AS uuid) IS NULL OR call_id > :after) ORDER BY call_id LIMIT :batch"
)
# Not `Outbox.add`, which writes to the tables of the newest revision.
OUTBOX = sa.table(
    "outbox",
    sa.column("id", sa.Text()),
    sa.column("aggregatetype", sa.Text()),
    sa.column("aggregateid", sa.Text()),
    sa.column("type", sa.Text()),
    sa.column("payload", sa.LargeBinary()),
    sa.column("partition", sa.SmallInteger()),
    sa.column("stream", sa.Text()),
    sa.column("subject", sa.Text()),
)


def upgrade() -> None:
    """Apply."""
    # Until the column is gone, no replica of the release before may end a call.
    op.execute("LOCK TABLE calls IN ACCESS EXCLUSIVE MODE")
    upgrade_outbox(op, "0001")
    bind = op.get_bind()
    codec = Codec(source="/calls")
    for calls in unpublished(bind):
        bind.execute(sa.insert(OUTBOX), [row(call, codec) for call in calls])
    op.drop_index("ix_calls_unpublished", table_name="calls")
    op.drop_column("calls", "published_at")


def downgrade() -> None:
    """Undo; what waits in the outbox is published by the release before."""
    op.add_column("calls", sa.Column("published_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("LOCK TABLE outbox, outbox_dead IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "UPDATE calls SET published_at = ended_at WHERE ended_at IS NOT NULL"
        " AND call_id::text NOT IN (SELECT aggregateid FROM outbox)"
        " AND call_id::text NOT IN (SELECT aggregateid FROM outbox_dead)"
    )
    op.create_index(
        "ix_calls_unpublished",
        "calls",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NOT NULL AND published_at IS NULL"),
    )
    downgrade_outbox(op, "0001")


def unpublished(bind: sa.Connection) -> Iterable[Sequence[sa.Row[Any]]]:
    """Calls whose event is not known to be stored by the broker, batch by batch."""
    after = None
    while calls := bind.execute(UNPUBLISHED, {"after": after, "batch": BATCH}).all():
        yield calls
        after = calls[-1].call_id


def row(call: sa.Row[Any], codec: Codec) -> dict[str, object]:
    """The event of a call as the release before published it, as a row of the outbox."""
    call_id = str(call.call_id)
    completed = CallCompleted(
        call_id=call_id,
        phone_number=call.phone_number,
        duration_seconds=call.duration_seconds or 0,
        status=call.status,
        failure_reason=call.failure_reason,
    )
    key = idempotency_key("calls-api", "call.completed", call_id)
    message = codec.outgoing(completed, id=key, stream="CALL", time=call.ended_at)
    return {
        "id": message.id,
        "aggregatetype": "call",
        "aggregateid": call_id,
        "type": "call.completed",
        "payload": message.data,
        "partition": zlib.crc32(call_id.encode()) % 64,
        "stream": message.stream,
        "subject": message.subject,
    }
