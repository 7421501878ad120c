"""The consumer's side: an effect in the database and the mark "handled" commit together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from common.db.core import UnitOfWork
from common.db.postgres import PostgresDatabase
from common.errors import AppError
from common.events.core import Inbox, InboxTransaction
from common.events.outbox._errors import explained
from common.events.outbox._sql import fetch, names_of
from common.events.outbox._upkeep import prune_inbox

_MARK: Final = """\
INSERT INTO {inbox} (consumer, message_id) VALUES ($1, $2)
ON CONFLICT (consumer, message_id) DO NOTHING RETURNING 1"""


class SqlInbox(Inbox[UnitOfWork]):
    """Marks handled messages in the table ``inbox``, in the transaction the handler works in.

    Of two deliveries of one message that are handled at once, the second waits at its first
    statement until the first has ended: then it is a duplicate, or the first one's successor.

    A mark must live longer than the broker may deliver its message again. `Relay` removes old
    ones in its own database (``keep_inbox``); elsewhere call `prune` now and then, or the command
    ``common-outbox prune``.

    Args:
        database: Where effects and marks are.

    Raises:
        ValidationError: The database is none of PostgreSQL.

    Example:
        >>> from common.db.postgres import PostgresConfig
        >>> from common.domain.calls import CallCompleted
        >>> from common.events.core import EventBus, EventContext, InMemoryTransport
        >>> database = PostgresDatabase(PostgresConfig(url="postgresql://app@db.example/billing"))
        >>> bus = EventBus(InMemoryTransport(), source="/billing-service")
        >>> @bus.subscribe(CallCompleted, durable="billing", inbox=SqlInbox(database))
        ... async def bill(event: CallCompleted, ctx: EventContext) -> None:
        ...     tx = ctx.transaction(UnitOfWork)  # commits together with the mark
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._names = names_of(database)
        self._mark = self._names.sql(_MARK)

    @asynccontextmanager
    async def transaction(
        self, consumer: str, message_id: str
    ) -> AsyncGenerator[InboxTransaction[UnitOfWork]]:
        """See `Inbox.transaction`.

        Raises:
            OutboxNotMigrated: The database lacks the table.
            DatabaseError: The database failed; nothing was marked, unless it is
                `CommitOutcomeUnknown`.
        """
        async with self._database.transaction() as tx:
            try:
                marked = await fetch(tx, "insert", "inbox", self._mark, consumer, message_id)
            except AppError as error:
                raise explained(error) from error.__cause__
            yield InboxTransaction(duplicate=not marked, transaction=tx)

    async def prune(self, age: timedelta) -> int:
        """Remove marks older than ``age``, in batches; return how many there were."""
        return await prune_inbox(self._database, self._names, age)
