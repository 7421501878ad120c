"""Reads go to a real streaming replica, except where that would be wrong."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from postgres_entities import Call, connect, metadata
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from common.db.core import ANY, F, StaleVersionError
from common.db.postgres import PostgresDatabase
from common.testing import PostgresServer
from common.testing._binaries import postgres_bin


class Replica(PostgresServer):
    """A hot standby of another server, made by pg_basebackup."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(password=primary._password)
        self._primary = primary

    async def _prepare(self) -> None:
        self.port = self._reserve(None)
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(data, *self._user)
        copy = postgres_bin() / "pg_basebackup"
        await self._spawn(
            [str(copy), f"--dbname={self._primary.url}", f"--pgdata={data}", "-R", "-c", "fast"]
        )
        assert await self.wait(30) == 0, self.output()
        self._bin = self._primary._bin


@pytest.fixture
async def servers() -> AsyncIterator[tuple[PostgresServer, Replica]]:
    if not (postgres_bin() / "pg_basebackup").exists():
        pytest.skip("this PostgreSQL has no pg_basebackup")
    async with PostgresServer() as primary:
        engine = create_async_engine(
            primary.url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool
        )
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()
        async with Replica(primary) as replica:
            yield primary, replica


async def caught_up(primary: PostgresServer, replica: Replica) -> None:
    target = (await primary.execute("SELECT pg_current_wal_lsn()")).strip()
    async with asyncio.timeout(20):
        while (
            await replica.execute(f"SELECT pg_last_wal_replay_lsn() >= '{target}'")
        ).strip() != "t":
            await asyncio.sleep(0.02)


def replica_pool(database: PostgresDatabase):
    return database._postgres.replicas.pools[0]


async def test_reads_writes_lag_and_loss(servers: tuple[PostgresServer, Replica]):
    primary, replica = servers
    async with (
        connect(primary.url, replicas=[replica.url], replica_lag_seconds=0.3) as database,
        connect(primary.url) as elsewhere,
    ):
        calls = database.repository(Call)
        await elsewhere.repository(Call).add_many([Call(1, "a"), Call(2, "b")])
        await caught_up(primary, replica)
        await replica.execute("SELECT pg_wal_replay_pause()")
        await elsewhere.repository(Call).add(Call(3, "c"))

        # The replica answers: it does not know the third.
        assert await calls.count() == 2
        assert [call.id async for call in calls.stream()] == [1, 2]
        assert not await calls.exists(F.id == 3)
        # A unit of work reads from the primary.
        async with database.transaction(read_only=True) as unit:
            assert await unit.repository(Call).count() == 3

        # Who wrote reads its own writes, and so do the tasks it starts.
        await calls.update(1, {"note": "x"}, expected=1)
        assert (await calls.get(1)).note == "x"
        assert (await asyncio.create_task(calls.get(1))).note == "x"
        with pytest.raises(StaleVersionError):
            await calls.update(3, {"note": "y"}, expected=7)
        await asyncio.sleep(0.35)
        assert (await calls.get(1)).note is None  # later, the replica again
        async with database.transaction() as unit:
            await unit.repository(Call).update(2, {"note": "z"}, expected=ANY)
            await asyncio.sleep(0.35)
        assert (await calls.get(2)).note == "z"  # counted from the commit

        await asyncio.sleep(0.35)
        replica.kill()
        assert [call.id async for call in calls.stream()] == [1, 2, 3]
        results = await asyncio.gather(*[calls.count() for _ in range(10)])
        assert results == [3] * 10
        await replica.start()
        async with asyncio.timeout(20):
            while not replica_pool(database).stats().idle:
                await calls.count()
                await asyncio.sleep(0.05)


async def test_an_unreachable_replica_is_no_error(postgres_url: str):
    nowhere = "postgresql://ada:pw@127.0.0.1:1/none"
    async with connect(postgres_url, replicas=[nowhere]) as database:
        assert await database.repository(Call).count() == 0
        await database.select(sa.text("SELECT 1").columns(sa.column("one", sa.Integer)))
