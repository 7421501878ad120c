"""What keeps the tables small, beside the relay's work."""

import asyncio
import logging
import random
from datetime import timedelta
from typing import Final

from common.context import operation
from common.db.postgres import PostgresDatabase
from common.errors import AppError
from common.events.outbox._config import RelayConfig
from common.events.outbox._lag import Lag, measure
from common.events.outbox._schema import Names
from common.events.outbox._sql import execute, fetch

log = logging.getLogger(__name__)

_BATCH: Final = 2_000
_PAUSE: Final = 0.05

# Several relays prune side by side: each skips what another has in hand.
_PRUNE_ARCHIVE: Final = """\
WITH gone AS (
    DELETE FROM {archive} WHERE position IN (
        SELECT position FROM {archive} WHERE published_at < clock_timestamp() - $1::interval
        ORDER BY published_at LIMIT {batch} FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM gone"""
_PRUNE_INBOX: Final = """\
WITH gone AS (
    DELETE FROM {inbox} WHERE (consumer, message_id) IN (
        SELECT consumer, message_id FROM {inbox}
        WHERE handled_at < clock_timestamp() - $1::interval
        ORDER BY handled_at LIMIT {batch} FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM gone"""


class Upkeep:
    """Prunes by age, vacuums after many deletes, and measures the lag.

    Args:
        database: Where the tables are.
        names: Of the tables.
        config: How often, and what to keep.
    """

    def __init__(self, database: PostgresDatabase, names: Names, config: RelayConfig) -> None:
        self._database = database
        self._names = names
        self._config = config
        self._deleted = 0
        self._vacuum = asyncio.Event()
        self.lag: Lag | None = None
        """As last measured."""

    def deleted(self, rows: int) -> None:
        """Count rows that left the outbox."""
        self._deleted += rows
        if 0 < self._config.vacuum_after <= self._deleted:
            self._vacuum.set()

    async def run(self, ready: asyncio.Event) -> None:
        """Work until cancelled; failures are reported by the operations, and tried again.

        Args:
            ready: Set when the tables are known to be there.
        """
        await ready.wait()
        while True:
            for step in (self._measure, self._clean, self._prune_archive, self._prune_inbox):
                try:
                    await step()
                except AppError as error:
                    log.warning(
                        "Clean-up of the outbox failed: %s", error, extra={"code": error.code}
                    )
            pause = self._config.upkeep_seconds
            try:
                async with asyncio.timeout(random.uniform(pause * 0.8, pause)):  # noqa: S311
                    await self._vacuum.wait()
            except TimeoutError:
                pass

    async def _measure(self) -> None:
        with operation("internal", "outbox.lag") as op:
            self.lag = lag = await measure(self._database, self._names)
            op.set(
                {
                    "outbox.lag.rows": lag.rows,
                    "outbox.lag.age": lag.age,
                    "outbox.failing": lag.failing,
                    "outbox.dead": lag.dead,
                }
            )

    async def _clean(self) -> None:
        if self._vacuum.is_set():
            self._vacuum.clear()
            self._deleted = 0
            await vacuum(self._database, self._names)

    async def _prune_archive(self) -> None:
        await prune_archive(self._database, self._names, self._config.keep_archive)

    async def _prune_inbox(self) -> None:
        if self._config.keep_inbox is not None:
            await prune_inbox(self._database, self._names, self._config.keep_inbox)


async def vacuum(database: PostgresDatabase, names: Names) -> None:
    """Make the space of deleted rows free for new ones; without the right to do so, nothing."""
    if getattr(database.config, "pgbouncer", False):
        return  # it runs everything in transactions; autovacuum is left
    await execute(database, "vacuum", "outbox", names.sql("VACUUM (SKIP_LOCKED) {outbox}"))


async def prune_archive(database: PostgresDatabase, names: Names, age: timedelta) -> int:
    """Remove archived messages older than ``age``, in batches; return how many."""
    return await _prune(database, "outbox_archive", names.sql(_PRUNE_ARCHIVE, batch=_BATCH), age)


async def prune_inbox(database: PostgresDatabase, names: Names, age: timedelta) -> int:
    """Remove marks older than ``age``, in batches; return how many."""
    return await _prune(database, "inbox", names.sql(_PRUNE_INBOX, batch=_BATCH), age)


async def _prune(database: PostgresDatabase, table: str, statement: str, age: timedelta) -> int:
    total = 0
    while True:
        rows = await fetch(database, "delete", table, statement, age)
        removed = int(rows[0][0])
        total += removed
        if removed < _BATCH:
            return total
        await asyncio.sleep(_PAUSE)
