"""What broker and database have stored, as they say themselves."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import nats
from nats.errors import Error as NatsClientError
from nats.js import JetStreamContext

from common.domain import Message, streams
from common.errors import DatabaseError, MessageBusError, map_errors
from common.events.core import DEAD_LETTERS, Transport

PAGE: Final = 100


class Broker:
    """Counts what streams were given, by NATS' own client: not by what is on trial here.

    Args:
        jetstream: A client that is connected.
    """

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def stored(self, kind: type[Message]) -> int:
        """How many messages the stream of a type has taken, those included that are gone.

        Raises:
            MessageBusError: NATS does not answer.
        """
        with map_errors({NatsClientError: MessageBusError}):
            info = await self._jetstream.stream_info(streams.stream_for(kind).name)
        return int(info.state.last_seq)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Broker]:
    """Connect to NATS.

    Raises:
        MessageBusError: NATS does not answer.
    """
    with map_errors({NatsClientError: MessageBusError}):
        client = await nats.connect(url, name="demo", max_reconnect_attempts=3)
    try:
        yield Broker(client.jetstream())
    finally:
        await client.close()


class Records:
    """Counts the transcript records of post-processing, past both services.

    Args:
        url: The database.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def count(self) -> tuple[int, int]:
        """How many calls have a record, and how many records there are.

        Raises:
            DatabaseError: PostgreSQL does not answer, or has no such table.
        """
        with map_errors({asyncpg.PostgresError: DatabaseError, OSError: DatabaseError}):
            connection = await asyncpg.connect(self._url)
            try:
                row = await connection.fetchrow(
                    "SELECT count(DISTINCT call_id), count(*) FROM post_processing.transcripts"
                )
            finally:
                await connection.close()
        return row[0], row[1]


class DeadLetters:
    """Counts dead letters by their reasons.

    Args:
        transport: An open transport.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._after = 0
        self._reasons = Counter[str]()

    async def count(self) -> Counter[str]:
        """All there are by now."""
        while letters := await self._transport.browse(DEAD_LETTERS, after=self._after, limit=PAGE):
            self._after = letters[-1].sequence
            self._reasons.update(
                letter.headers.get("Dead-Letter-Reason", "none") for letter in letters
            )
        return self._reasons
