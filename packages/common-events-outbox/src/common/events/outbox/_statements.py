"""The relay's statements: reading a batch, and settling what became of it."""

from collections.abc import Mapping, Sequence
from typing import Final

from common.db.postgres import PostgresDatabase
from common.events.outbox._batch import Row, read_row
from common.events.outbox._schema import Names
from common.events.outbox._sql import Record, fetch, idle_limit

_MAX_BYTES: Final = 16 << 20
"""Bytes of payload after which no further message joins a batch."""

_COLUMNS: Final = (
    "position, id, aggregatetype, aggregateid, type, payload, partition, stream, subject, headers, "
    "created_at"
)

# No cursor over positions: a row that is committed late has an early position, and is simply there
# the next time. What waits for its next attempt holds back its key; both sides of that are judged
# by one moment, or the next message of a key could slip through while the first one's wait ends.
_READ: Final = """\
SELECT position, partition, attempts, age, subject, payload, id, stream, aggregateid, headers
FROM (
    SELECT o.*, extract(epoch FROM clock_timestamp() - o.created_at)::float8 AS age,
        sum(octet_length(o.payload)) OVER (ORDER BY o.position ROWS UNBOUNDED PRECEDING)
            - octet_length(o.payload) AS bytes_before
    FROM {outbox} o
    WHERE o.partition = ANY ($1::smallint[])
        AND (o.stream = ANY ($2::text[])) = $3
        AND (o.next_attempt_at IS NULL OR o.next_attempt_at <= statement_timestamp())
        AND (o.aggregateid IS NULL OR o.aggregateid NOT IN (
            SELECT f.aggregateid FROM {outbox} f
            WHERE f.next_attempt_at > statement_timestamp() AND f.aggregateid IS NOT NULL))
    ORDER BY o.position LIMIT $4
) AS batch
WHERE bytes_before < {bytes}
ORDER BY position"""

# Partitions that this relay holds still, under the fences under which it read.
_MINE: Final = """\
(SELECT l.partition FROM {lease} l JOIN unnest($2::smallint[], $3::bigint[]) AS h (partition, fence)
        ON l.partition = h.partition AND l.fence = h.fence WHERE l.owner = $4)"""
_DELETE: Final = """\
WITH gone AS (
    DELETE FROM {outbox} o WHERE o.position = ANY ($1::bigint[]) AND o.partition IN {mine}
    RETURNING 1
)
SELECT count(*) FROM gone"""
_ARCHIVE: Final = """\
WITH gone AS (
    DELETE FROM {outbox} o WHERE o.position = ANY ($1::bigint[]) AND o.partition IN {mine}
    RETURNING o.*
), kept AS (
    INSERT INTO {archive} ({columns}) SELECT {columns} FROM gone RETURNING 1
)
SELECT count(*) FROM kept"""
_BURY: Final = """\
WITH gone AS (
    DELETE FROM {outbox} o
    USING unnest($1::bigint[], $5::integer[], $6::text[]) AS t (position, attempts, error)
    WHERE o.position = t.position AND o.partition IN {mine}
    RETURNING o.*, t.attempts AS attempted, t.error
)
INSERT INTO {dead} ({columns}, attempts, last_error) SELECT {columns}, attempted, error FROM gone"""
_POSTPONE: Final = """\
UPDATE {outbox} o
SET attempts = t.attempts, last_error = t.error,
    next_attempt_at = clock_timestamp() + t.pause * interval '1 second'
FROM unnest($1::bigint[], $5::integer[], $6::text[], $7::float8[])
    AS t (position, attempts, error, pause)
WHERE o.position = t.position AND o.partition IN {mine}"""

# A statement is planned once for each connection, mostly while the table is empty, when reading
# all of it seems cheapest; that plan would then also read all of a million rows for each batch.
_BEGIN: Final = """\
SELECT set_config('enable_seqscan', 'off', true),
    set_config('idle_in_transaction_session_timeout', $1, true)"""


class Statements:
    """Reads and settles the messages of one relay.

    Args:
        database: Where they are.
        names: Of the tables.
        owner: Name of this run of the relay.
        archive: Keep what was published.
        lease: Seconds of its leases.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        names: Names,
        *,
        owner: str,
        archive: bool,
        lease: float,
    ) -> None:
        self._database = database
        self._idle = idle_limit(database, lease=lease)
        self._owner = owner
        self._read = names.sql(_READ, bytes=_MAX_BYTES)
        self._done = names.sql(
            _ARCHIVE if archive else _DELETE, columns=_COLUMNS, mine=names.sql(_MINE)
        )
        self._bury = names.sql(_BURY, columns=_COLUMNS, mine=names.sql(_MINE))
        self._postpone = names.sql(_POSTPONE, mine=names.sql(_MINE))

    async def read(
        self, partitions: Mapping[int, int], *, streams: Sequence[str], only: bool, limit: int
    ) -> list[Row]:
        """Return the first rows that may be published now.

        Args:
            partitions: Those to look at.
            streams: Only of these, or of all but these.
            only: Which of the two.
            limit: Most rows.
        """
        records = await self._fetch(
            "select", self._read, list(partitions), list(streams), only, limit
        )
        return [read_row(record) for record in records]

    async def done(self, rows: Sequence[Row], fences: Mapping[int, int]) -> int:
        """Delete or archive rows that are published; return how many were still ours."""
        counted = await self._fetch("delete", self._done, *self._rows(rows, fences))
        return int(counted[0][0])

    async def bury(
        self, rows: Sequence[Row], errors: Sequence[str], fences: Mapping[int, int]
    ) -> None:
        """Make dead letters of rows."""
        attempts = [row.attempts + 1 for row in rows]
        await self._fetch("delete", self._bury, *self._rows(rows, fences), attempts, list(errors))

    async def postpone(
        self,
        rows: Sequence[Row],
        attempts: Sequence[int],
        errors: Sequence[str],
        pauses: Sequence[float],
        fences: Mapping[int, int],
    ) -> None:
        """Let rows, and with them their keys, wait.

        Args:
            rows: The rows.
            attempts: How many attempts each has had now.
            errors: Why.
            pauses: Seconds until the next attempt.
            fences: Under which they were read.
        """
        given = list(attempts), list(errors), list(pauses)
        await self._fetch("update", self._postpone, *self._rows(rows, fences), *given)

    async def _fetch(self, name: str, statement: str, *values: object) -> Sequence[Record]:
        async with self._database.transaction() as tx:
            await fetch(tx, "set", "outbox", _BEGIN, self._idle)
            return await fetch(tx, name, "outbox", statement, *values)

    def _rows(self, rows: Sequence[Row], fences: Mapping[int, int]) -> tuple[object, ...]:
        partitions = sorted({row.partition for row in rows})
        return (
            [row.position for row in rows],
            partitions,
            [fences[each] for each in partitions],
            self._owner,
        )
