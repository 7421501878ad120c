"""What became of calls, seen in the table of post-processing.

The example's services share one database, which makes this look across possible. It only reads,
names no more than it needs, and does without: before post-processing has started for the first
time there is no such table, and no call is processed.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from calls_api.tables import Call
from common.db.postgres import PostgresDatabase
from common.errors import DatabaseError

TRANSCRIPTS = sa.table(
    "transcripts",
    sa.column("call_id", sa.Uuid()),
    sa.column("created_at", sa.DateTime(timezone=True)),
    schema="post_processing",
)

UNDEFINED_TABLE: Final = "42P01"  # PostgreSQL documentation, appendix A; also without the schema


async def processed_at(
    database: PostgresDatabase, calls: Iterable[Call]
) -> Mapping[UUID, datetime]:
    """When the transcript record of each call was written, of those that have one."""
    ended = [call.call_id for call in calls if call.ended_at is not None]
    if not ended:
        return {}
    written = sa.func.min(TRANSCRIPTS.c.created_at).label("at")
    rows = await _select(
        database,
        sa.select(TRANSCRIPTS.c.call_id, written)
        .where(TRANSCRIPTS.c.call_id.in_(ended))
        .group_by(TRANSCRIPTS.c.call_id),
    )
    return {row.call_id: row.at for row in rows}


async def effects(database: PostgresDatabase) -> tuple[int, int]:
    """How many calls have a transcript record, and how many records there are."""
    counts = sa.select(
        sa.func.count(TRANSCRIPTS.c.call_id.distinct()).label("calls"),
        sa.func.count(TRANSCRIPTS.c.call_id).label("records"),
    )
    for row in await _select(database, counts):
        return row.calls, row.records
    return 0, 0


async def _select(database: PostgresDatabase, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
    try:
        return await database.select(statement)
    except DatabaseError as error:
        if error.error_code != UNDEFINED_TABLE:
            raise
        return ()
