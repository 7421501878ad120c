"""Reading batches."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from outbox_support import Lit, Opened, add, config_of, count, run_sql

from common.db.core import CommitOutcomeUnknown
from common.db.postgres import PostgresDatabase
from common.events.outbox._lease import Leases
from common.events.outbox._sql import names_of
from common.events.outbox._statements import Statements

MANY = """\
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition, stream, subject,
    next_attempt_at)
SELECT n::text, 'lamp', 'x' || n, 'lamp.lit', '', 0, 'LAMP', 'evt.lamp.lit',
    CASE WHEN n % 10 = 0 THEN timestamptz 'infinity' END
FROM generate_series(1, 60000) n"""
WAIT = """\
UPDATE outbox SET next_attempt_at = clock_timestamp() + $2 * interval '1 millisecond'
WHERE id = $1"""


async def test_nothing_overtakes_a_message_whose_wait_ends_while_a_batch_is_read(
    database, postgres_url
):
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    # Too little for a hash of the keys that wait: each is looked up when its row is reached.
    await run_sql(database, f"ALTER DATABASE \"{name}\" SET work_mem = '64kB'")
    (first,) = await add(database, Opened(door="k", number=1))
    await run_sql(database, MANY)  # so that there is some time between the two of one key
    (second,) = await add(database, Opened(door="k", number=2))
    await run_sql(database, "ANALYZE outbox")
    async with PostgresDatabase(config_of(postgres_url)) as fresh:
        names = names_of(fresh)
        leases = Leases(fresh, names, owner="r", seconds=600)
        await leases.keep()
        statements = Statements(fresh, names, owner="r", archive=False, lease=600)
        found = set()
        for n in range(80):
            await run_sql(fresh, WAIT, first, n / 2)
            rows = await statements.read(dict(leases.held), streams=["LAMP"], only=False, limit=9)
            found.add(tuple(row.outgoing.id for row in rows))
    assert found <= {(), (first, second)}


class Stalling(PostgresDatabase):
    """Stands still before it commits, until it is let go."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def transaction(self, **options):
        async with super().transaction(**options) as tx:
            yield tx
            self.reached.set()
            await self.gate.wait()


async def test_a_relay_that_stands_still_before_it_commits_holds_up_the_next_one_but_shortly(
    database, postgres_url
):
    names = names_of(database)
    await add(database, Lit(lamp="a"))
    await run_sql(database, "UPDATE outbox_lease SET owner = 'r', expires_at = 'infinity'")
    fences = dict.fromkeys(range(64), 0)

    def statements(of: PostgresDatabase) -> Statements:
        return Statements(of, names, owner="r", archive=True, lease=3)

    healthy = statements(database)
    rows = await healthy.read(fences, streams=[], only=False, limit=1)
    async with Stalling(config_of(postgres_url)) as stalling:
        done = asyncio.create_task(statements(stalling).done(rows, fences))
        await stalling.reached.wait()
        async with asyncio.timeout(25):  # the configuration alone would let it lock for 60 s
            assert await healthy.done(rows, fences) == 1
        stalling.gate.set()
        with pytest.raises(CommitOutcomeUnknown):
            await done
    assert (await count(database), await count(database, "outbox_archive")) == (0, 1)


async def test_a_relay_that_stands_still_while_it_renews_holds_up_nobody_for_long(
    database, postgres_url
):
    async with Stalling(config_of(postgres_url)) as stalling:
        stalled = Leases(stalling, names_of(database), owner="a", seconds=3)
        keeping = asyncio.create_task(stalled.keep())
        await stalling.reached.wait()
        other = Leases(database, names_of(database), owner="b", seconds=600)
        async with asyncio.timeout(25):
            while len(other.held) < 64:
                await other.keep()
                await asyncio.sleep(0.05)
        stalling.gate.set()
        with pytest.raises(CommitOutcomeUnknown):
            await keeping
    assert stalled.held == {}
