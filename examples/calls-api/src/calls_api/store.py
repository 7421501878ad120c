"""Calls in PostgreSQL."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from uuid import UUID

import sqlalchemy as sa

from calls_api.events import completed
from calls_api.models import EndCall, Summary
from calls_api.tables import Call
from common.db.core import F, Page, Predicate, StaleVersionError, UniqueViolationError
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

    async def end(self, call_id: UUID, end: EndCall, *, check: Callable[[int], None]) -> Call:
        """Record how a call ended, and that this is to be told.

        Args:
            call_id: which call.
            end: how it ended.
            check: raises unless the call's version is one that may be changed.

        Raises:
            NotFoundError: no such call.
            ConflictError: it ended before.
        """
        call = await self._calls.get(call_id)
        check(call.version)
        if call.ended_at is None:
            try:
                return await self._end(call, end)
            except StaleVersionError:  # another request ended it meanwhile: nothing else writes
                call = await self._calls.get(call_id)
                check(call.version)
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

    async def processed(self, call_id: UUID, session_id: UUID) -> Call:
        """Record which transcript record a call has; again with the same one changes nothing.

        Raises:
            NotFoundError: no such call.
            ConflictError: it has another one, or has not ended.
        """
        call = await self._calls.get(call_id)
        if call.transcript_id == session_id:
            return call
        if call.transcript_id is not None or call.ended_at is None:
            raise ConflictError(
                "the call has another transcript record"
                if call.transcript_id is not None
                else "the call has not ended",
                conflicting_resource=str(call_id),
                current_state=call.status.value,
            )
        changes = {"transcript_id": session_id, "processed_at": datetime.now(UTC)}
        try:
            return await self._calls.update(call_id, changes, expected=call.version)
        except StaleVersionError:  # reported twice at once: there is a record by now
            return await self.processed(call_id, session_id)

    async def page(
        self, *, status: CallStatus | None, processed: bool | None, after: str | None, limit: int
    ) -> Page[Call]:
        """Calls in the order of their ids, which is the order in which they started.

        Raises:
            InvalidCursorError: `after` is not from a page with the same status and `processed`.
        """
        where: list[Predicate] = []
        if status is not None:
            where.append(F.status == status)
        if processed is not None:
            where.append(F.processed_at.not_null() if processed else F.processed_at.is_null())
        return await self._calls.find(
            reduce(and_, where) if where else None, limit=limit, after=after
        )

    async def summary(self) -> Summary:
        """The books: how many calls are at which step."""
        counts = sa.select(
            sa.func.count(Call.call_id).label("created"),
            sa.func.count(Call.ended_at).label("ended"),
            sa.func.count(Call.processed_at).label("processed"),
        )
        (row,) = await self._database.select(counts)
        outbox = await OutboxAdmin(self._database).lag()
        return Summary(
            created=row.created,
            ended=row.ended,
            processed=row.processed,
            waiting=outbox.rows,
            undeliverable=outbox.dead,
        )
