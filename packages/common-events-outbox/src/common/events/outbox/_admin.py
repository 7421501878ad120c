"""What an operator wants to know and do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from common.db.postgres import PostgresDatabase
from common.errors import AppError, ValidationError
from common.events.outbox._errors import explained
from common.events.outbox._lag import Lag, measure
from common.events.outbox._sql import Record, fetch, names_of
from common.events.outbox._upkeep import prune_archive, prune_inbox

_MOST: Final = 10_000
_BATCH: Final = 1_000

_RELAYS: Final = """\
SELECT r.owner, r.started_at, r.expires_at >= clock_timestamp(), count(l.owner), r.waiting
FROM {relay} r LEFT JOIN {lease} l ON l.owner = r.owner AND l.expires_at >= clock_timestamp()
GROUP BY r.owner ORDER BY r.started_at"""
_ERRORS: Final = """\
SELECT coalesce(last_error, ''), count(*)
FROM (SELECT last_error FROM {outbox} WHERE next_attempt_at IS NOT NULL LIMIT {batch}) AS r
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"""
_FREE: Final = """\
SELECT count(*) FROM {lease} WHERE owner IS NULL OR expires_at < clock_timestamp()"""
_DEAD: Final = """\
SELECT position, id, type, aggregateid, stream, octet_length(payload), attempts, last_error,
    created_at, died_at
FROM {dead} WHERE position > $1 ORDER BY position LIMIT $2"""
_SOME: Final = """\
(SELECT position FROM {dead}
    WHERE ($1::text[] IS NULL OR id = ANY ($1)) AND ($2::text IS NULL OR type = $2)
        AND died_at <= $3
    ORDER BY position LIMIT {batch} FOR UPDATE SKIP LOCKED)"""
_RETRY: Final = """\
WITH gone AS (
    DELETE FROM {dead} WHERE position IN {some} RETURNING {columns}, position
), back AS (
    INSERT INTO {outbox} ({columns}) SELECT {columns} FROM gone ORDER BY position RETURNING 1
), told AS (
    SELECT pg_notify({channel}, '')
)
SELECT (SELECT count(*) FROM back) FROM told"""
_DISCARD: Final = """\
WITH gone AS (DELETE FROM {dead} WHERE position IN {some} RETURNING 1) SELECT count(*) FROM gone"""
_COLUMNS: Final = (
    "id, aggregatetype, aggregateid, type, payload, partition, stream, subject, headers"
)


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """A relay, as the database knows it.

    Attributes:
        owner: Host, process id and id of the run.
        started: When it started, by the database's clock.
        alive: Whether it has renewed its leases in time.
        partitions: How many it holds.
        waiting: Whether writers wake it; a busy relay looks by itself.
    """

    owner: str
    started: datetime
    alive: bool
    partitions: int
    waiting: bool


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """An outbox and its relays.

    Attributes:
        lag: What waits.
        relays: Who publishes it.
        free: Partitions that no relay holds.
        errors: Why messages wait for another attempt: up to five reasons, and how many messages
            have each, of the first thousand.
    """

    lag: Lag
    relays: Sequence[RelayStatus]
    free: int
    errors: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that the broker refused for good.

    Attributes:
        position: Its place in the outbox; names it among dead letters.
        id: Message id.
        type: Such as ``"call.completed"``.
        key: Partition key.
        stream: Name of the stream.
        size: Bytes of the body.
        attempts: How often it was tried.
        error: Why the last attempt failed.
        created: When it was added.
        died: When it was given up.
    """

    position: int
    id: str
    type: str
    key: str | None
    stream: str
    size: int
    attempts: int
    error: str | None
    created: datetime
    died: datetime


class OutboxAdmin:
    """Status, dead letters and clean-up of an outbox; the command ``common-outbox`` as code.

    Args:
        database: Where the outbox is.

    Raises:
        ValidationError: The database is none of PostgreSQL.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._names = names_of(database)

    async def lag(self) -> Lag:
        """Measure what waits.

        Raises:
            OutboxNotMigrated: The database lacks the tables; also raised by all other methods.
        """
        try:
            return await measure(self._database, self._names)
        except AppError as error:
            raise explained(error) from error.__cause__

    async def status(self) -> OutboxStatus:
        """Return what waits, and who publishes it."""
        lag = await self.lag()
        rows = await self._fetch("select", "outbox_relay", _RELAYS)
        free = await self._fetch("select", "outbox_lease", _FREE)
        errors = await self._fetch("select", "outbox", _ERRORS) if lag.failing else []
        return OutboxStatus(
            lag, [RelayStatus(*row) for row in rows], free[0][0], [(*row,) for row in errors]
        )

    async def dead(self, *, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """Return dead letters, oldest first.

        Args:
            limit: Most of them, up to 10,000.
            after: Only those with a higher position.
        """
        if not 1 <= limit <= _MOST:
            raise ValidationError(f"limit is 1 to {_MOST}", field="limit")
        rows = await self._fetch(
            "select",
            "outbox_dead",
            _DEAD,
            after,
            limit,
        )
        return [DeadLetter(*row) for row in rows]

    async def retry(self, ids: Sequence[str] | None = None, *, type: str | None = None) -> int:  # noqa: A002
        """Put dead letters back into the outbox, behind everything that is there now.

        Of their key, later messages have been published meanwhile: see to it that handlers bear
        that, or discard them.

        Args:
            ids: Message ids; ``None``: all.
            type: Only of this type.

        Returns:
            How many.
        """
        return await self._move(
            ids,
            type,
            _RETRY,
        )

    async def discard(self, ids: Sequence[str] | None = None, *, type: str | None = None) -> int:  # noqa: A002
        """Delete dead letters for good.

        Args:
            ids: Message ids; ``None``: all.
            type: Only of this type.

        Returns:
            How many.
        """
        return await self._move(ids, type, _DISCARD)

    async def prune(
        self, *, archive: timedelta | None = None, inbox: timedelta | None = None
    ) -> tuple[int, int]:
        """Remove old rows; return how many of archive and inbox.

        Args:
            archive: Age of archived messages to remove.
            inbox: Age of marks of `SqlInbox` to remove.
        """
        try:
            return (
                0 if archive is None else await prune_archive(self._database, self._names, archive),
                0 if inbox is None else await prune_inbox(self._database, self._names, inbox),
            )
        except AppError as error:
            raise explained(error) from error.__cause__

    async def _move(self, ids: Sequence[str] | None, type_: str | None, statement: str) -> int:
        if isinstance(ids, str):
            raise ValidationError("ids is a list of message ids", field="ids")
        # What dies again meanwhile is not for this call.
        now = await self._fetch("select", "outbox_dead", "SELECT clock_timestamp()")
        total = 0
        while True:
            rows = await self._fetch(
                "delete",
                "outbox_dead",
                statement,
                None if ids is None else list(ids),
                type_,
                now[0][0],
            )
            total += rows[0][0]
            if rows[0][0] < _BATCH:
                return int(total)

    async def _fetch(self, name: str, table: str, sql: str, *values: object) -> Sequence[Record]:
        try:
            some = self._names.sql(_SOME, batch=_BATCH)
            statement = self._names.sql(sql, columns=_COLUMNS, some=some, batch=_BATCH)
            return await fetch(self._database, name, table, statement, *values)
        except AppError as error:
            raise explained(error) from error.__cause__
