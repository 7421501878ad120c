"""Reads go to a real streaming replica, except where that would be wrong."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from postgres_entities import Call, connect, metadata
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from common.context import bind
from common.db.core import ANY, F, Repository, StaleVersionError, StatementTimeout
from common.db.postgres import PostgresDatabase, _connect, _replicas
from common.testing import FaultProxy, PostgresServer
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
        copy = self._primary._bin / "pg_basebackup"
        if not copy.exists():  # programs were copied to where their user can run them
            shutil.copy2(postgres_bin() / copy.name, copy)
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
    async with asyncio.timeout(60):
        while (
            await replica.execute(f"SELECT pg_last_wal_replay_lsn() >= '{target}'")
        ).strip() != "t":
            await asyncio.sleep(0.02)


def let_time_pass() -> None:
    """As if the last write were longer ago than replicas lag."""
    recent = _replicas._recent.get()
    assert recent is not None
    recent.until = 0.0


def replica_pool(database: PostgresDatabase):
    return database._postgres.replicas.pools[0]


async def test_reads_writes_lag_and_loss(servers: tuple[PostgresServer, Replica]):
    primary, replica = servers
    async with (
        connect(primary.url, replicas=[replica.url], replica_lag_seconds=60) as database,
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
        let_time_pass()
        assert (await calls.get(1)).note is None  # later, the replica again
        async with database.transaction() as unit:
            await unit.repository(Call).update(2, {"note": "z"}, expected=ANY)
            let_time_pass()
        assert (await calls.get(2)).note == "z"  # counted from the commit

        let_time_pass()
        replica.kill()
        assert [call.id async for call in calls.stream()] == [1, 2, 3]
        results = await asyncio.gather(*[calls.count() for _ in range(10)])
        assert results == [3] * 10
        await replica.start()
        async with asyncio.timeout(60):
            while not replica_pool(database).stats().idle:
                await calls.count()
                await asyncio.sleep(0.05)


async def test_a_replica_that_hangs_is_left_alone_until_it_answers(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_connect, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(_replicas, "_REST_SECONDS", 60.0)
    async with (
        FaultProxy(postgres_url) as proxy,
        connect(
            postgres_url, replicas=[proxy.url(postgres_url)], statement_timeout_seconds=1
        ) as database,
    ):
        calls = database.repository(Call)
        for read in (calls.count, lambda: streamed(calls)):
            assert await read() == 0
            assert proxy.connections
            proxy.stall()
            assert await read() == 0  # by the primary, when the replica's time was up
            replicas = database._postgres.replicas
            assert replicas.choose() is None
            proxy.heal()
            async with asyncio.timeout(60):
                while replicas.choose() is None:
                    await asyncio.sleep(0.01)
        proxy.stall()
        with bind(deadline=time.monotonic() + 0.5), pytest.raises(StatementTimeout):
            await calls.count()
        assert replicas.choose() is None
        assert await calls.count() == 0
        proxy.heal()


async def streamed(calls: Repository[Call]) -> int:
    return len([call async for call in calls.stream()])


async def test_a_slow_query_is_not_its_replicas_fault(postgres_url: str):
    async with connect(
        postgres_url, replicas=[postgres_url], statement_timeout_seconds=0.2
    ) as database:

        async def slow(connection: Any, seconds: float | None) -> None:
            await connection.execute("SELECT pg_sleep(60)", timeout=seconds)

        with pytest.raises(StatementTimeout) as caught:
            await database._postgres.autocommit().run(slow)
        assert caught.value.error_code == "57014"
        assert database._postgres.replicas.choose() is not None


async def test_lag_is_counted_from_the_end_of_a_write(postgres_url: str):
    async with connect(postgres_url, replicas=[postgres_url], replica_lag_seconds=60) as database:
        calls = database.repository(Call)
        loop = asyncio.get_running_loop()
        for write in (
            lambda: calls.upsert(Call(1, "a")),
            lambda: calls.upsert_many([Call(1, "a")]),
        ):
            await calls.upsert(Call(1, "a"))
            async with database.transaction() as blocker:
                await blocker.repository(Call).update(1, {"note": "x"}, expected=ANY)
                writing = asyncio.create_task(write())
                while not await blocked(database):
                    await asyncio.sleep(0.005)
                ends = loop.time()
            await writing
            recent = _replicas._recent.get()
            assert recent is not None
            assert recent.until >= ends + 60


async def blocked(database: PostgresDatabase) -> int:
    statement = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).columns(sa.column("count", sa.Integer))
    return int((await database.select(statement))[0][0])


async def test_an_unreachable_replica_is_no_error(postgres_url: str):
    nowhere = "postgresql://ada:pw@127.0.0.1:1/none"
    async with connect(postgres_url, replicas=[nowhere]) as database:
        assert await database.repository(Call).count() == 0
        await database.select(sa.text("SELECT 1").columns(sa.column("one", sa.Integer)))
