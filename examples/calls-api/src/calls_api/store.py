"""Calls in PostgreSQL."""

from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from calls_api.events import completed
from calls_api.models import EndCall, Summary
from calls_api.processing import effects
from calls_api.tables import Call
from common.db.core import F, Page, StaleVersionError, UniqueViolationError
from common.db.postgres import PostgresDatabase
from common.domain.calls import CallStatus
from common.errors import ConflictError
from common.events.outbox import Outbox, OutboxAdmin


class CallStore:
    """Reads and writes calls.

    Args:
        database: an open database; the caller closes it.
        outbox: takes the events, each in the transaction of the change it tells of.
    """

    def __init__(self, database: PostgresDatabase, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._calls = database.repository(Call)

    async def start(self, call_id: UUID, phone_number: str) -> Call:
        """Record that a call started; again with the same id changes nothing."""
        try:
            return await self._calls.add(Call(call_id=call_id, phone_number=phone_number))
        except UniqueViolationError:
            return await self._calls.get(call_id)

    async def end(self, call_id: UUID, end: EndCall) -> Call:
        """Record how a call ended, and that this is to be told.

        Raises:
            NotFoundError: no such call.
            ConflictError: it ended before.
        """
        call = await self._calls.get(call_id)
        if call.ended_at is None:
            try:
                return await self._end(call, end)
            except StaleVersionError:  # another request ended it meanwhile: nothing else writes
                call = await self._calls.get(call_id)
        raise ConflictError(
            "the call has ended already",
            conflicting_resource=str(call_id),
            current_state=call.status.value,
        )

    async def _end(self, call: Call, end: EndCall) -> Call:
        changes = end.model_dump() | {"ended_at": datetime.now(UTC)}
        async with self._database.transaction() as tx:
            ended = await tx.repository(Call).update(call.call_id, changes, expected=call.version)
            await self._outbox.add(tx, completed(ended))
        return ended

    async def get(self, call_id: UUID) -> Call:
        """One call.

        Raises:
            NotFoundError: no such call.
        """
        return await self._calls.get(call_id)

    async def page(self, *, status: CallStatus | None, after: str | None, limit: int) -> Page[Call]:
        """Calls in the order of their ids, which is the order in which they started.

        Raises:
            InvalidCursorError: `after` is not from a page with the same status.
        """
        where = None if status is None else F.status == status
        return await self._calls.find(where, limit=limit, after=after)

    async def summary(self) -> Summary:
        """The books: how many calls are at which step."""
        # Effects first: of calls that end between the two looks, none is processed but not ended.
        processed, written = await effects(self._database)
        counts = sa.select(
            sa.func.count(Call.call_id).label("created"),
            sa.func.count(Call.ended_at).label("ended"),
        )
        (row,) = await self._database.select(counts)
        outbox = await OutboxAdmin(self._database).lag()
        return Summary(
            created=row.created,
            ended=row.ended,
            waiting=outbox.rows,
            undeliverable=outbox.dead,
            processed=processed,
            duplicate_effects=written - processed,
        )
