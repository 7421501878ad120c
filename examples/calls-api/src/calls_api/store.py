"""Calls in PostgreSQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from calls_api.models import Call, EndCall, Summary
from common.domain.calls import CallStatus
from common.errors import ConflictError, NotFoundError

SCHEMA = """
create table if not exists calls (
    call_id uuid primary key,
    phone_number text not null,
    status text not null,
    duration_seconds integer,
    failure_reason text,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    published_at timestamptz
);
create index if not exists calls_unpublished on calls (ended_at)
    where ended_at is not null and published_at is null;
create table if not exists transcripts (
    session_id text primary key,
    call_id uuid not null,
    processing_status text not null,
    processed_at timestamptz not null default now()
);
-- Not unique on purpose: an effect that was applied twice shows as a second row.
create index if not exists transcripts_call_id on transcripts (call_id);
create table if not exists inbox (
    message_id text primary key,
    handled_at timestamptz not null default now()
);
"""

# Any number that only this service uses: replicas that start together migrate one by one.
MIGRATION_LOCK = 7_302_001

SELECT = """
select c.call_id, c.phone_number, c.status, c.duration_seconds, c.failure_reason,
       c.started_at, c.ended_at, t.processed_at
from calls c left join lateral (
    select min(processed_at) as processed_at from transcripts where call_id = c.call_id
) t on true
"""


class CallStore:
    """Reads and writes calls through a pool of connections.

    Args:
        pool: an open asyncpg pool; the caller closes it.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def migrate(self) -> None:
        """Create the tables that are missing."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(SCHEMA)

    async def start(self, call_id: UUID, phone_number: str) -> Call:
        """Record that a call started; again with the same id changes nothing."""
        await self._pool.execute(
            "insert into calls (call_id, phone_number, status) values ($1, $2, $3)"
            " on conflict (call_id) do nothing",
            call_id,
            phone_number,
            CallStatus.INITIATED.value,
        )
        return await self.get(call_id)

    async def end(self, call_id: UUID, end: EndCall) -> Call:
        """Record how a call ended.

        Raises:
            NotFoundError: no such call.
            ConflictError: it ended before.
        """
        changed = await self._pool.fetchval(
            "update calls set status = $2, duration_seconds = $3, failure_reason = $4,"
            " ended_at = now() where call_id = $1 and ended_at is null returning true",
            call_id,
            end.status.value,
            end.duration_seconds,
            end.failure_reason,
        )
        call = await self.get(call_id)
        if not changed:
            raise ConflictError(
                "the call has ended already",
                conflicting_resource=str(call_id),
                current_state=call.status.value,
            )
        return call

    async def get(self, call_id: UUID) -> Call:
        """One call.

        Raises:
            NotFoundError: no such call.
        """
        row = await self._pool.fetchrow(f"{SELECT} where c.call_id = $1", call_id)
        if row is None:
            raise NotFoundError("no such call", resource="call", resource_id=str(call_id))
        return _call(row)

    async def page(
        self,
        *,
        status: CallStatus | None,
        processed: bool | None,
        after: UUID | None,
        limit: int,
    ) -> list[Call]:
        """Calls in the order of their ids, which is the order in which they started."""
        rows = await self._pool.fetch(
            f"{SELECT} where ($1::text is null or c.status = $1)"
            " and ($2::boolean is null or (t.processed_at is not null) = $2)"
            " and ($3::uuid is null or c.call_id > $3)"
            " order by c.call_id limit $4",
            status and status.value,
            processed,
            after,
            limit,
        )
        return [_call(row) for row in rows]

    async def summary(self) -> Summary:
        """The books: how many calls are at which step."""
        row = await self._pool.fetchrow(
            "select created, ended, published, processed, effects - processed as duplicate_effects"
            " from (select count(*) as created, count(ended_at) as ended,"
            " count(published_at) as published from calls) c,"
            " (select count(distinct call_id) as processed, count(*) as effects"
            " from transcripts) t"
        )
        return Summary.model_validate(dict(row or {}))

    async def unpublished(self, *, older_than: timedelta, limit: int) -> Sequence[Call]:
        """Ended calls whose event is not known to be stored by the broker."""
        rows = await self._pool.fetch(
            f"{SELECT} where c.ended_at < now() - $1::interval and c.published_at is null"
            " order by c.ended_at limit $2",
            older_than,
            limit,
        )
        return [_call(row) for row in rows]

    async def mark_published(self, call_id: UUID) -> None:
        """Remember that the broker has stored the call's event."""
        await self._pool.execute(
            "update calls set published_at = now() where call_id = $1", call_id
        )


def _call(row: Any) -> Call:
    return Call.model_validate(dict(row))
