"""The writer's side: events that commit together with the change they tell of."""

import asyncio
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, Self

from common.db.core import UnitOfWork
from common.domain import Keyed, Message, Registry, Streams
from common.domain import registry as default_registry
from common.domain import streams as default_streams
from common.errors import AppError, ValidationError
from common.events.core import Codec, InMemoryTransport, MessageTooLarge, Mode, Outgoing, Publisher
from common.events.outbox._errors import explained
from common.events.outbox._schema import PARTITIONS
from common.events.outbox._sql import fetch, names_of

MAX_MESSAGES: Final = 10_000
"""Most messages of one `Outbox.add_many`."""
# Transactions that notify commit one after another, all of the server's: so only when a relay
# sleeps. One that worked while this row was written looks again by itself, see `Pace`.
_INSERT: Final = """\
WITH added AS (
    INSERT INTO {outbox}
        (id, aggregatetype, aggregateid, type, payload, partition, stream, subject, headers)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[],
        $6::smallint[], $7::text[], $8::text[], $9::jsonb[])
)
SELECT pg_notify({channel}, '') WHERE EXISTS (SELECT FROM {relay} WHERE waiting)"""

_FRAME: Final = len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n")
_HEADER: Final = len(": \r\n")
"""Framing of a header; NATS counts all of it (`max_payload`)."""

_SLICE: Final = 250
"""Messages encoded before other tasks get their turn."""


class Encoder(Protocol):
    """What turns a message into bytes: an `EventBus` or a `Publisher`."""

    def encode(self, message: Message | Keyed[Any], *, id: str | None = None) -> Outgoing:  # noqa: A002
        """Return what would be published."""
        ...


class Outbox:
    """Stores messages in the transaction of the change they tell of; a `Relay` publishes them.

    A message is encoded and checked when it is added, exactly as a bus would publish it then:
    id, time, correlation, causation and trace are those of this moment.

    Of one key, messages are published in the order in which they were added, as long as the
    transactions that add them follow one another. They do if each changes a common row *before*
    it adds (its lock makes the next one wait), the aggregate's own for example. Without such a
    lock, messages of transactions that run side by side come in either order, and none is lost.

    Args:
        source: Who sends: CloudEvents' ``source``, a URI reference such as ``"/calls"``.
        service: Name by which ``streams`` knows the service; by default the end of ``source``.
        registry: The message classes.
        streams: Which stream keeps a message, and who may publish it.
        mode: Where the envelope goes; see `Codec`.
        max_payload: Most bytes of a message with its headers, so that what the broker would
            refuse is refused here; NATS' default.

    Raises:
        ValueError: The source cannot be sent.

    Example:
        >>> from common.db.postgres import PostgresDatabase
        >>> from common.domain.calls import CallCompleted
        >>> outbox = Outbox(source="/call-service")
        >>> async def complete(database: PostgresDatabase, event: CallCompleted) -> None:
        ...     async with database.transaction() as tx:
        ...         # change the call, and then:
        ...         await outbox.add(tx, event)
    """

    def __init__(
        self,
        *,
        source: str,
        service: str | None = None,
        registry: Registry = default_registry,
        streams: Streams = default_streams,
        mode: Mode = "structured",
        max_payload: int = 1_048_576,
    ) -> None:
        self._encoder: Encoder = Publisher(
            InMemoryTransport(),  # never opened: a publisher that only encodes
            Codec(source=source, registry=registry, mode=mode),
            service=service or source.rstrip("/").rpartition("/")[2],
            streams=streams,
        )
        self._max_payload = max_payload

    @classmethod
    def of(cls, encoder: Encoder, *, max_payload: int = 1_048_576) -> Self:
        """Return an outbox that encodes as a bus or publisher does.

        Args:
            encoder: An `EventBus` or a `Publisher`; it need not be open.
            max_payload: Most bytes of a message.
        """
        made = cls.__new__(cls)
        made._encoder = encoder  # noqa: SLF001 - its own
        made._max_payload = max_payload  # noqa: SLF001
        return made

    async def add(
        self,
        tx: UnitOfWork,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,  # noqa: A002 - the standard's word
    ) -> str:
        """Add a message to a transaction, by one statement in one round trip.

        Args:
            tx: A unit of work of a `PostgresDatabase`; flush SQLAlchemy's session first, if you
                use one on it.
            message: An event of one of this service's streams, or any command.
            id: Message id, by which repetitions are known; by default the message's idempotency
                key, or a new UUIDv7.

        Returns:
            The message id.

        Raises:
            UnknownStreamError: No stream keeps this type. Nothing was written.
            PublishNotAllowedError: It belongs to another service's stream. Nothing was written.
            MessageTooLarge: It is larger than ``max_payload``. Nothing was written.
            ValueError: It cannot be encoded (see `Codec.encode`), or its key cannot be stored.
                Nothing was written.
            OutboxNotMigrated: The database lacks the table.
            DatabaseError: The database failed; the transaction can only be left.
        """
        outgoing = self._encode(message, id)
        await self._insert(tx, [outgoing])
        return outgoing.id

    async def add_many(self, tx: UnitOfWork, messages: Iterable[Message | Keyed[Any]]) -> list[str]:
        """Add up to 10,000 messages in their order, by one statement in one round trip.

        Returns:
            The message ids.

        Raises:
            ValidationError: There are more than 10,000. For all else see `add`.
        """
        outgoing: list[Outgoing] = []
        for message in messages:
            if len(outgoing) == MAX_MESSAGES:
                raise ValidationError(f"add at most {MAX_MESSAGES} messages at a time")
            if len(outgoing) % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            outgoing.append(self._encode(message, None))
        if outgoing:
            await self._insert(tx, outgoing)
        return [each.id for each in outgoing]

    def _encode(self, message: Message | Keyed[Any], id: str | None) -> Outgoing:  # noqa: A002
        outgoing = self._encoder.encode(message, id=id)
        if outgoing.key is not None and "\0" in outgoing.key:
            raise ValueError("the key has a NUL character, which PostgreSQL cannot store")
        size = _size(outgoing)
        if size > self._max_payload:
            raise MessageTooLarge(
                f"{outgoing.subject}: {size} bytes are more than the {self._max_payload} a message "
                "may have: store what is large elsewhere and send where it is",
                message_id=outgoing.id,
                size=size,
                limit=self._max_payload,
            )
        return outgoing

    async def _insert(self, tx: UnitOfWork, messages: Sequence[Outgoing]) -> None:
        names = names_of(tx)
        columns = zip(*map(_row, messages), strict=True)
        try:
            await fetch(tx, "insert", "outbox", names.sql(_INSERT), *map(list, columns))
        except AppError as error:
            told = explained(error)
            if told is error:
                raise
            raise told from error


def _size(message: Outgoing) -> int:
    """Return the bytes a broker counts: body and headers, among them the message id."""
    headers = sum(len(k) + len(v) + _HEADER for k, v in message.headers.items())
    return len(message.data) + headers + len(message.id) + _FRAME


def partition_of(key: str) -> int:
    """Return the partition of a key.

    Example:
        >>> partition_of("c-1") == zlib.crc32(b"c-1") % 64
        True
    """
    return zlib.crc32(key.encode()) % PARTITIONS


def _row(message: Outgoing) -> tuple[object, ...]:
    name = message.subject.partition(".")[2]
    return (
        message.id,
        name.partition(".")[0],
        message.key,
        name,
        message.data,
        partition_of(message.id if message.key is None else message.key),
        message.stream,
        message.subject,
        json.dumps(dict(message.headers)) if message.headers else None,
    )
