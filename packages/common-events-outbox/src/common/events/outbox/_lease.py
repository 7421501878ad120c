"""Which partitions a relay publishes: leases in the database, by the database's clock."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from common.db.core import UnitOfWork
from common.db.postgres import PostgresDatabase
from common.events.outbox._schema import PARTITIONS, Names
from common.events.outbox._sql import Record, fetch, idle_limit

log = logging.getLogger(__name__)

LEASES_CHANGED: Final = "leases"
"""Payload of the notification by which relays tell each other to share anew."""

_HASTE_SECONDS: Final = 1.0

# Also forgets relays that died: nobody else would take back that they want to be woken. One that
# was paused in the midst of a transaction has its row locked: nobody may wait for that.
_LIVE: Final = """\
WITH me AS (
    INSERT INTO {relay} AS r (owner, expires_at)
    VALUES ($1, clock_timestamp() + $2 * interval '1 second')
    ON CONFLICT (owner) DO UPDATE SET expires_at = EXCLUDED.expires_at
    RETURNING xmax = 0 AS joined
), gone AS (
    DELETE FROM {relay} WHERE owner IN (
        SELECT owner FROM {relay} WHERE owner <> $1 AND expires_at < clock_timestamp()
        FOR UPDATE SKIP LOCKED)
)
SELECT (SELECT joined FROM me), count(*), count(*) FILTER (WHERE owner < $1),
    set_config('idle_in_transaction_session_timeout', $3, true)
FROM {relay} WHERE owner <> $1 AND expires_at >= clock_timestamp()"""
# A table that somebody has emptied, as tests do, would stop all relays without a word.
_FILL: Final = """\
INSERT INTO {lease} (partition) SELECT n FROM generate_series(0, {last}) n
WHERE NOT EXISTS (SELECT FROM {lease} l WHERE l.partition = n) ON CONFLICT DO NOTHING"""
_RENEW: Final = """\
UPDATE {lease} SET expires_at = clock_timestamp() + $2 * interval '1 second'
WHERE owner = $1 RETURNING partition, fence"""
_RELEASE: Final = """\
WITH freed AS (
    UPDATE {lease} SET owner = NULL, expires_at = '-infinity'
    WHERE owner = $1 AND ($2::smallint[] IS NULL OR partition = ANY ($2))
    RETURNING 1
)
SELECT pg_notify({channel}, $3) WHERE EXISTS (SELECT FROM freed)"""
_TAKE: Final = """\
UPDATE {lease} SET owner = $1, fence = fence + 1,
    expires_at = clock_timestamp() + $2 * interval '1 second'
WHERE partition IN (
    SELECT partition FROM {lease} WHERE owner IS NULL OR expires_at < clock_timestamp()
    ORDER BY partition LIMIT $3 FOR UPDATE SKIP LOCKED
) RETURNING partition, fence"""
_TELL: Final = "SELECT pg_notify({channel}, $1)"
_LEAVE: Final = "DELETE FROM {relay} WHERE owner = $1"
_ANNOUNCE: Final = "UPDATE {relay} SET waiting = $2 WHERE owner = $1"


class Leases:
    """The partitions that one relay holds.

    Relays share the partitions evenly. A partition's fence grows with each change of hands: what
    a relay writes about a message names the fence it read under, so that a relay that was paused
    past its lease changes nothing any more.

    Args:
        database: Where the leases are.
        names: Of the tables.
        owner: Name of this run of this relay, used by no other.
        seconds: How long a lease lasts.
    """

    def __init__(
        self, database: PostgresDatabase, names: Names, *, owner: str, seconds: float
    ) -> None:
        self._database = database
        self._names = names
        self._owner = owner
        self._seconds = seconds
        self._idle = idle_limit(database, lease=seconds)
        self._held: dict[int, int] = {}
        self._expires = 0.0
        self._due = 0.0
        self._renewal = 0.0

    @property
    def held(self) -> Mapping[int, int]:
        """Fences of the partitions held, by their number."""
        return self._held

    @property
    def left(self) -> float:
        """Seconds for which they are held at least; measured from before they were renewed."""
        return self._expires - time.monotonic()

    @property
    def due(self) -> float:
        """Seconds until `keep` should be called; 0 or less: now."""
        return self._due - time.monotonic()

    @property
    def fading(self) -> bool:
        """Whether they should be renewed, however much is in hand."""
        return time.monotonic() >= self._renewal

    def share_anew(self) -> None:
        """Let `keep` be due at once."""
        self._due = 0.0

    async def keep(self) -> bool:
        """Renew what is held, hand back what is more than a fair share, take what is free.

        Returns:
            Whether the others did not know of this relay, or not any more.
        """
        start = time.monotonic()
        async with self._database.transaction() as tx:
            ((joined, others, before, _),) = await self._fetch(
                tx, _LIVE, self._owner, self._seconds, self._idle
            )
            if joined:
                await self._fetch(tx, _FILL)
            held = await self._renewed(tx)
            fair = _share(others + 1, before)
            if len(held) > fair:
                surplus = sorted(held)[fair:]
                await self._fetch(tx, _RELEASE, self._owner, surplus, LEASES_CHANGED)
                held = {each: fence for each, fence in held.items() if each not in surplus}
            elif len(held) < fair:
                missing = fair - len(held)
                held |= dict(await self._fetch(tx, _TAKE, self._owner, self._seconds, missing))
                if joined and len(held) < fair:
                    await self._fetch(tx, _TELL, LEASES_CHANGED)
        self._note(held, start)
        pause = self._seconds / 3
        self._due = start + (min(pause, _HASTE_SECONDS) if len(held) < fair else pause)
        return bool(joined)

    async def renew(self) -> None:
        """Renew what is held, and no more: messages of it are in hand. `keep` stays due."""
        start = time.monotonic()
        self._note(await self._renewed(self._database), start)

    async def hand_back(self) -> None:
        """Let others have everything, now."""
        self._held, self._due, self._renewal = {}, 0.0, 0.0
        async with self._database.transaction() as tx:
            await self._fetch(tx, _RELEASE, self._owner, None, LEASES_CHANGED)
            await self._fetch(tx, _LEAVE, self._owner)

    async def announce(self, *, waiting: bool) -> None:
        """Tell writers whether this relay wants to be woken."""
        await self._fetch(self._database, _ANNOUNCE, self._owner, waiting)

    async def _renewed(self, gate: UnitOfWork | PostgresDatabase) -> dict[int, int]:
        return dict(await self._fetch(gate, _RENEW, self._owner, self._seconds))

    async def _fetch(
        self, gate: UnitOfWork | PostgresDatabase, statement: str, *values: object
    ) -> Sequence[Record]:
        sql = self._names.sql(statement, last=PARTITIONS - 1)
        return await fetch(gate, "lease", "outbox_lease", sql, *values)

    def _note(self, held: dict[int, int], start: float) -> None:
        lost = [each for each, fence in self._held.items() if held.get(each) != fence]
        if lost and self._expires < start:
            log.warning(
                "The relay was away for longer than its lease: others have taken over",
                extra={"partitions": len(lost)},
            )
        self._held = held
        self._expires = start + self._seconds
        self._renewal = start + self._seconds / 3


def _share(relays: int, before: int) -> int:
    """Return how many partitions are for the relay that has so many before it.

    Example:
        >>> [_share(3, place) for place in range(3)]
        [22, 21, 21]
    """
    each, left = divmod(PARTITIONS, relays)
    return each + (before < left)
