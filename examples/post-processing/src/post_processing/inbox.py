"""An inbox in this worker's database."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.dialects.postgresql import insert

from common.db.core import UnitOfWork
from common.db.postgres import PostgresDatabase, orm_session
from common.events.core import Inbox, InboxTransaction
from post_processing.tables import InboxMark


class DatabaseInbox(Inbox[UnitOfWork]):
    """Marks handled messages in the unit of work in which the handler works.

    Args:
        database: An open database; the caller closes it.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(
        self, consumer: str, message_id: str
    ) -> AsyncGenerator[InboxTransaction[UnitOfWork]]:
        """See `Inbox.transaction`; of two at once, the second waits for the first."""
        async with self._database.transaction() as unit:
            session = await orm_session(unit)
            marked = await session.scalar(
                insert(InboxMark)
                .values(message_id=f"{consumer}/{message_id}")
                .on_conflict_do_nothing()
                .returning(InboxMark.message_id)
            )
            yield InboxTransaction(duplicate=marked is None, transaction=unit)
