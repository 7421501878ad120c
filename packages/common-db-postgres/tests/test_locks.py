"""Advisory locks hold between connections, and tell when they do not."""

import asyncio
import time

import pytest
import sqlalchemy as sa
from postgres_entities import connect

from common.context import bind
from common.db.core import ConnectionLost, LockTimeout, MemoryDatabase
from common.db.postgres import PostgresDatabase, notify, orm_session, transaction_lock
from common.errors import ValidationError
from common.testing import cancel_at_every_await


async def held(database: PostgresDatabase) -> int:
    statement = sa.text(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE locktype = 'advisory' AND d.datname = current_database()"
    ).columns(sa.column("count", sa.Integer))
    return int((await database.select(statement))[0][0])


async def test_one_at_a_time_over_several_processes_connections(postgres_url: str):
    inside = most = 0

    async def work(database: PostgresDatabase) -> None:
        nonlocal inside, most
        async with database.advisory_lock("report"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.005)
            inside -= 1

    async with connect(postgres_url) as first, connect(postgres_url) as second:
        await asyncio.gather(*[work(each) for each in (first, second) for _ in range(6)])
        assert most == 1
        assert await held(first) == 0


async def test_a_lock_that_is_taken_times_out(database: PostgresDatabase):
    async with database.advisory_lock("a"), database.advisory_lock("b"):
        for seconds in (0, 0.1):
            with pytest.raises(LockTimeout) as caught:
                async with database.advisory_lock("a", timeout_seconds=seconds):
                    pass
            assert caught.value.timeout_seconds == seconds
        with pytest.raises(LockTimeout):
            async with database.transaction() as unit:
                await transaction_lock(unit, "a", timeout_seconds=0.1)
        assert await held(database) == 2
    async with database.advisory_lock("a", timeout_seconds=0):
        pass


async def test_waiting_goes_on_past_the_servers_statement_timeout(postgres_url: str):
    async with connect(postgres_url, statement_timeout_seconds=0.5) as database:
        async with database.advisory_lock("a"):
            waiting = asyncio.create_task(enter(database, 60))
            await asyncio.sleep(1.2)
            assert not waiting.done()
        await waiting


async def enter(database: PostgresDatabase, seconds: float) -> None:
    async with database.advisory_lock("a", timeout_seconds=seconds):
        pass


async def test_a_transactions_lock_ends_with_it(database: PostgresDatabase):
    async with database.transaction() as unit:
        await transaction_lock(unit, "a")

        async def failing() -> None:
            async with database.transaction() as other:
                await transaction_lock(other, "a", timeout_seconds=0)
                pytest.fail("taken twice")

        with pytest.raises(LockTimeout):
            await failing()
        session = await orm_session(unit)
        timeout = await session.scalar(sa.text("SHOW lock_timeout"))
        assert timeout == "0"
    async with database.transaction() as unit:
        await transaction_lock(unit, "a", timeout_seconds=0)


async def test_waiting_ends_at_the_deadline(database: PostgresDatabase):
    async with database.advisory_lock("a"):
        with bind(deadline=time.monotonic() + 0.5), pytest.raises(LockTimeout):
            await enter(database, 60)


async def test_a_connection_that_broke_while_idle_is_replaced(database: PostgresDatabase):
    pid = sa.text("SELECT pg_backend_pid()").columns(sa.column("pid", sa.Integer))
    ((idle,),) = await database.select(pid)
    async with connect(str(database._postgres.config.url.get_secret_value())) as other:  # type: ignore[union-attr]
        end = sa.text(f"SELECT pg_terminate_backend({idle}, 5000)")
        assert (await other.select(end.columns(sa.column("done", sa.Boolean))))[0][0]
    async with database.advisory_lock("a"):
        assert await held(database) == 1


async def test_a_lock_lost_with_its_connection_ends_the_body(database: PostgresDatabase):
    statement = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).columns(sa.column("done", sa.Boolean))

    async def failing() -> None:
        async with database.advisory_lock("a"):
            await database.select(statement)
            await asyncio.sleep(30)
            pytest.fail("went on without the lock")

    with pytest.raises(ConnectionLost, match="lock"):
        await failing()
    async with database.advisory_lock("a", timeout_seconds=0):
        pass


async def test_cancelled_at_every_await_no_lock_stays(database: PostgresDatabase):
    async def work() -> None:
        async with database.advisory_lock("a", timeout_seconds=1):
            await asyncio.sleep(0)

    async def check() -> None:
        async with asyncio.timeout(5):
            while await held(database) or database._postgres.pool().in_use:
                await asyncio.sleep(0.005)

    assert await cancel_at_every_await(work, check) >= 3


async def test_an_error_of_the_body_goes_through(database: PostgresDatabase):
    for error in (TimeoutError, ZeroDivisionError):
        with pytest.raises(error):
            async with database.advisory_lock("a"):
                raise error
    assert await held(database) == 0


async def test_another_backends_unit_of_work_is_refused():
    async with MemoryDatabase() as memory, memory.transaction() as unit:
        for call in (transaction_lock(unit, "a"), notify(unit, "c"), orm_session(unit)):
            with pytest.raises(ValidationError, match="PostgresDatabase"):
                await call
