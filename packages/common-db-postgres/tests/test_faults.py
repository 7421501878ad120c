"""A real server is killed, exhausted, made to wait and to refuse."""

import asyncio
import random
import time
from typing import Any

import pytest
import sqlalchemy as sa
from postgres_entities import Call, config_of, connect, metadata
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from common.context import bind
from common.db.core import (
    ANY,
    CommitOutcomeUnknown,
    ConnectionLost,
    Deadlock,
    Isolation,
    LockTimeout,
    PoolTimeout,
    SerializationConflict,
    StatementTimeout,
    TooManyConnections,
    UniqueViolationError,
    UnitOfWork,
)
from common.db.postgres import PostgresDatabase, _pool, orm_session, transaction_lock
from common.db.postgres._bridge import Lease
from common.db.postgres._session import PostgresTransaction
from common.errors import DatabaseError, is_retryable
from common.testing import FaultProxy, PostgresServer, cancel_at_every_await


async def make_tables(url: str) -> None:
    engine = create_async_engine(
        url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


async def settled(database: PostgresDatabase) -> None:
    """Wait until no connection is in use or being cleaned."""
    pool = database._postgres.primary
    async with asyncio.timeout(30):
        while pool._used or pool._in_doubt or pool._connecting:
            await asyncio.sleep(0.005)


async def open_transactions(database: PostgresDatabase) -> int:
    """Count transactions on the server that are open, besides the one that counts."""
    rows = await database.select(
        sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()"
        ).columns(sa.column("count", sa.Integer))
    )
    return int(rows[0][0])


class Ledger:
    """What writers were told about each id."""

    def __init__(self) -> None:
        self.stored: set[int] = set()
        self.unknown: set[int] = set()
        self.refused: set[int] = set()


async def test_a_server_killed_among_32_writers_loses_nothing_that_was_acknowledged():
    ledger = Ledger()
    running = True

    async def write(database: PostgresDatabase, number: int) -> None:
        calls = database.repository(Call)
        for key in range(number * 1_000_000, (number + 1) * 1_000_000):
            if not running:
                return
            call = Call(key, f"n{key}")
            try:
                if number % 2:
                    await calls.add(call)
                else:
                    async with database.transaction() as unit:
                        await unit.repository(Call).add(call)
                ledger.stored.add(key)
            except CommitOutcomeUnknown:
                ledger.unknown.add(key)
            except (ConnectionLost, TooManyConnections):
                ledger.refused.add(key)
                await asyncio.sleep(random.uniform(0.01, 0.05))

    async with PostgresServer() as server:
        await make_tables(server.url)
        async with connect(server.url, pool_size=32, max_overflow=0) as database:
            writers = [asyncio.create_task(write(database, number)) for number in range(32)]
            for _ in range(2):
                enough = len(ledger.stored) + 300
                async with asyncio.timeout(120):
                    while len(ledger.stored) < enough:
                        await asyncio.sleep(0.01)
                server.kill()
                await asyncio.sleep(0.1)
                await server.start()
            enough = len(ledger.stored) + 300
            async with asyncio.timeout(120):
                while len(ledger.stored) < enough:
                    await asyncio.sleep(0.01)
            running = False
            await asyncio.gather(*writers)
            found = {call.id async for call in database.repository(Call).stream()}
            await settled(database)
            stats = database._postgres.pool()
            assert (stats.in_use, stats.waiting) == (0, 0)
            assert stats.idle <= 32
    assert ledger.stored <= found
    assert found <= ledger.stored | ledger.unknown
    assert not found & ledger.refused
    assert ledger.unknown or ledger.refused  # the kills were noticed


async def test_reads_go_on_after_a_restart_without_an_error():
    async with PostgresServer() as server:
        await make_tables(server.url)
        async with connect(server.url) as database:
            calls = database.repository(Call)
            await calls.add(Call(1, "a"))
            for _ in range(3):
                await asyncio.gather(*[calls.get(1) for _ in range(8)])
                await server.restart()
                assert (await calls.get(1)).number == "a"
                async with database.transaction() as unit:
                    assert await unit.repository(Call).count() == 1


async def test_a_connection_that_breaks_under_a_read_is_replaced_once(
    database: PostgresDatabase, postgres_url: str
):
    async with (
        FaultProxy(postgres_url) as proxy,
        connect(proxy.url(postgres_url)) as through,
    ):
        calls = through.repository(Call)
        await calls.add(Call(1, "a"))
        proxy.stall(direction="downstream")
        reading = asyncio.create_task(calls.get(1))
        while not through._postgres.pool().in_use:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        proxy.cut()
        proxy.heal()
        assert (await reading).number == "a"

        proxy.cut()
        proxy.refuse()
        with pytest.raises(ConnectionLost):
            await calls.get(1)


@pytest.mark.parametrize("kind", ["add", "add_many", "upsert_many", "update", "delete"])
async def test_a_connection_cut_under_a_write_leaves_the_outcome_unknown(
    postgres_url: str, kind: str
):
    async with (
        FaultProxy(postgres_url) as proxy,
        connect(proxy.url(postgres_url)) as database,
        connect(postgres_url) as direct,
    ):
        calls = database.repository(Call)
        await direct.repository(Call).add(Call(1, "a"))
        await calls.get(1)
        works = {
            "add": lambda: calls.add(Call(2, "b")),
            "add_many": lambda: calls.add_many([Call(2, "b")]),
            "upsert_many": lambda: calls.upsert_many([Call(1, "b")]),
            "update": lambda: calls.update(1, {"note": "x"}, expected=1),
            "delete": lambda: calls.delete(1),
        }
        proxy.stall(direction="downstream")
        writing = asyncio.create_task(works[kind]())
        await asyncio.sleep(0.1)
        proxy.cut()
        proxy.heal()
        with pytest.raises(CommitOutcomeUnknown) as caught:
            await writing
        assert not is_retryable(caught.value)
        assert caught.value.__cause__ is not None


async def test_a_connection_cut_during_commit_leaves_the_outcome_unknown(postgres_url: str):
    async with (
        FaultProxy(postgres_url) as proxy,
        connect(proxy.url(postgres_url)) as database,
        connect(postgres_url) as direct,
    ):

        async def commit() -> None:
            async with database.transaction() as unit:
                await unit.repository(Call).add(Call(1, "a"))
                proxy.stall(direction="downstream")

        task = asyncio.create_task(commit())
        async with asyncio.timeout(30):
            # Here it is stored, and only the answer lost. Nobody could know.
            while not await direct.repository(Call).count():
                await asyncio.sleep(0.005)
        proxy.cut()
        proxy.heal()
        with pytest.raises(CommitOutcomeUnknown):
            await task
        assert await database.repository(Call).count() == 1


async def test_a_connection_cut_before_commit_stores_nothing(postgres_url: str):
    async with FaultProxy(postgres_url) as proxy, connect(proxy.url(postgres_url)) as database:

        async def failing() -> None:
            async with database.transaction() as unit:
                await unit.repository(Call).add(Call(1, "a"))
                proxy.cut()
                await asyncio.sleep(0.05)
                await unit.repository(Call).add(Call(2, "b"))

        with pytest.raises(ConnectionLost):
            await failing()
        assert await database.repository(Call).count() == 0


async def test_run_reruns_after_an_unknown_outcome_only_what_is_idempotent(postgres_url: str):
    async with FaultProxy(postgres_url) as proxy, connect(proxy.url(postgres_url)) as database:
        attempts = 0

        async def work(unit: UnitOfWork) -> None:
            nonlocal attempts
            attempts += 1
            await unit.repository(Call).upsert(Call(1, "a"))
            if attempts % 2:
                connection = unit.session.connection  # type: ignore[attr-defined]
                connection.terminate()

        with pytest.raises((CommitOutcomeUnknown, ConnectionLost)):
            await database.run(work)
        attempts = 0
        await database.run(work, idempotent=True)
        assert attempts == 2


async def test_a_pool_that_is_exhausted_says_so_and_recovers(postgres_url: str):
    async with connect(postgres_url, pool_size=1, max_overflow=1) as database:
        calls = database.repository(Call)
        pool = database._postgres.primary
        patient = pool._config
        async with database.transaction(), database.transaction():
            stats = pool.stats()
            assert (stats.in_use, stats.overflow) == (2, 1)
            start = time.monotonic()
            pool._config = patient.model_copy(update={"timeout_seconds": 0.2})
            with pytest.raises(PoolTimeout) as caught:
                await calls.count()
            pool._config = patient
            assert time.monotonic() - start >= 0.19
            assert caught.value.timeout_seconds == 0.2
        results = await asyncio.gather(*[calls.count() for _ in range(50)])
        assert results == [0] * 50
        await settled(database)
        assert database._postgres.pool().idle <= 1


async def test_waiting_for_a_connection_ends_at_the_deadline(postgres_url: str):
    async with (
        connect(postgres_url, pool_size=1, max_overflow=0) as database,
        database.transaction(),
    ):
        with bind(deadline=time.monotonic() + 0.5), pytest.raises(PoolTimeout):
            await database.repository(Call).count()


async def test_who_waits_is_served_in_order_and_cancelled_waiters_take_nothing(postgres_url: str):
    async with connect(postgres_url, pool_size=1, max_overflow=0) as database:
        calls = database.repository(Call)
        served: list[int] = []

        async def read(number: int) -> None:
            await calls.count()
            served.append(number)

        async with database.transaction():
            tasks = [asyncio.create_task(read(number)) for number in range(10)]
            while database._postgres.pool().waiting < 10:
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [1, 3, 5, 7, 9]
        await settled(database)
        assert (await calls.count(), database._postgres.pool().idle) == (0, 1)


async def test_a_cancellation_in_the_instant_of_the_hand_over_loses_no_connection(
    postgres_url: str,
):
    async with connect(postgres_url, pool_size=1, max_overflow=0) as database:
        pool = database._postgres.primary
        slot = await pool.acquire()
        waiter = asyncio.create_task(pool.acquire())
        while not pool.stats().waiting:
            await asyncio.sleep(0)
        pool.release(slot)  # resolves the waiter's future …
        waiter.cancel()  # … before the waiter has run
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await database.repository(Call).count() == 0


async def test_statements_end_at_the_servers_timeout(postgres_url: str):
    async with connect(postgres_url, statement_timeout_seconds=1) as database:
        with pytest.raises(StatementTimeout) as caught:
            async with database.session() as session:
                await session.execute(sa.text("SELECT pg_sleep(10)"))
        assert caught.value.error_code == "57014"
        assert is_retryable(caught.value)
        await settled(database)
        assert await open_transactions(database) == 0


async def test_statements_end_at_the_deadline(database: PostgresDatabase):
    await database.repository(Call).add(Call(1, "a"))
    async with database.transaction() as blocker:
        await blocker.repository(Call).update(1, {"note": "x"}, expected=ANY)
        # Alone, it might have got through; in a transaction, it has not.
        with bind(deadline=time.monotonic() + 0.5), pytest.raises(CommitOutcomeUnknown):
            await database.repository(Call).update(1, {"note": "y"}, expected=ANY)
        with bind(deadline=time.monotonic() + 0.5), pytest.raises(StatementTimeout):
            await in_transaction(database, 1)
    await settled(database)
    assert (await database.repository(Call).get(1)).note == "x"
    assert await open_transactions(database) == 0


async def in_transaction(database: PostgresDatabase, key: int) -> None:
    async with database.transaction() as unit:
        await unit.repository(Call).update(key, {"note": "z"}, expected=ANY)


async def test_deadlocks_are_retried_to_success(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add_many([Call(1, "a", note="0"), Call(2, "b", note="0")])
    attempts = 0
    both = asyncio.Barrier(2)

    async def add_one(unit: UnitOfWork, first: int, second: int) -> None:
        nonlocal attempts
        attempts += 1
        repository = unit.repository(Call)
        for key in (first, second):
            call = await repository.get(key)
            await repository.update(key, {"note": str(int(call.note or 0) + 1)}, expected=ANY)
            if attempts <= 2 and key == first:
                await both.wait()

    await asyncio.gather(
        database.run(lambda unit: add_one(unit, 1, 2)),
        database.run(lambda unit: add_one(unit, 2, 1)),
    )
    assert attempts == 3
    assert [call.note for call in await calls.list()] == ["2", "2"]


async def test_a_deadlock_is_reported_when_nobody_retries(database: PostgresDatabase):
    await database.repository(Call).add_many([Call(1, "a"), Call(2, "b")])
    both = asyncio.Barrier(2)

    async def change(first: int, second: int) -> None:
        async with database.transaction() as unit:
            await unit.repository(Call).update(first, {"note": "x"}, expected=ANY)
            await both.wait()
            await unit.repository(Call).update(second, {"note": "x"}, expected=ANY)

    outcomes = await asyncio.gather(change(1, 2), change(2, 1), return_exceptions=True)
    assert [type(each) for each in outcomes if each is not None] == [Deadlock]


async def test_serialization_failures_are_retried_to_success(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add(Call(1, "a", note="0"))
    attempts = 0

    async def increment(unit: UnitOfWork) -> None:
        nonlocal attempts
        attempts += 1
        call = await unit.repository(Call).get(1)
        await asyncio.sleep(0.001)
        changes = {"note": str(int(call.note or 0) + 1)}
        await unit.repository(Call).update(1, changes, expected=ANY)

    await asyncio.gather(
        *[database.run(increment, retries=50, isolation=Isolation.SERIALIZABLE) for _ in range(8)]
    )
    assert (await calls.get(1)).note == "8"
    assert attempts > 8


async def test_a_serialization_failure_at_commit_is_one(database: PostgresDatabase):
    await database.repository(Call).add_many([Call(1, "a"), Call(2, "b")])

    async def skew(key: int, other: int, ready: asyncio.Barrier) -> None:
        async with database.transaction(isolation=Isolation.SERIALIZABLE) as unit:
            await unit.repository(Call).get(other)
            await unit.repository(Call).update(key, {"note": "x"}, expected=ANY)
            await ready.wait()

    barrier = asyncio.Barrier(2)
    outcomes = await asyncio.gather(
        skew(1, 2, barrier), skew(2, 1, barrier), return_exceptions=True
    )
    assert [type(each) for each in outcomes if each is not None] == [SerializationConflict]


async def test_the_server_being_full_has_its_own_error():
    settings = {"max_connections": "5", "superuser_reserved_connections": "0"}
    async with PostgresServer(settings=settings) as server:
        await make_tables(server.url)
        async with connect(server.url, pool_size=10) as database:
            outcomes = await asyncio.gather(
                *[hold(database, 0.3) for _ in range(8)], return_exceptions=True
            )
            failed = [each for each in outcomes if each is not None]
            assert failed
            assert {type(each) for each in failed} == {TooManyConnections}
            assert all(is_retryable(each) for each in failed if isinstance(each, Exception))
            await settled(database)
            assert await database.repository(Call).count() == 0


async def hold(database: PostgresDatabase, seconds: float) -> None:
    async with database.transaction():
        await asyncio.sleep(seconds)


async def test_cancelled_at_every_await_the_pool_is_whole_and_no_transaction_open(
    database: PostgresDatabase,
):
    calls = database.repository(Call)
    await calls.add_many([Call(key, f"n{key}") for key in range(5)])
    next_key = iter(range(1_000, 1_000_000))

    async def clear() -> None:
        for call in (await calls.find(limit=1_000)).items:
            if call.id >= 1_000:
                await calls.delete(call.id)

    async def work() -> None:
        await calls.get(1)
        await calls.find(limit=2, total=True)
        await calls.add_many([Call(key := next(next_key), f"n{key}") for _ in range(20)])
        await calls.upsert_many([Call(1, "n1"), Call(2, "n2")])
        async with database.transaction() as unit:
            await unit.repository(Call).add(Call(key := next(next_key), f"n{key}"))
            session = await orm_session(unit)
            await session.execute(sa.text("SELECT 1"))
            await transaction_lock(unit, "x")

    async def check() -> None:
        await settled(database)
        assert await open_transactions(database) == 0
        assert await calls.count() >= 5
        stats = database._postgres.pool()
        assert (stats.in_use, stats.waiting) == (0, 0)
        await clear()

    assert await cancel_at_every_await(work, check) >= 8


async def test_a_cancelled_write_has_stopped_on_the_server_when_its_task_ends(
    database: PostgresDatabase,
):
    calls = database.repository(Call)
    await calls.add(Call(1, "a"))
    async with database.transaction() as blocker:
        await blocker.repository(Call).update(1, {"note": "first"}, expected=ANY)
        writing = asyncio.create_task(calls.update(1, {"note": "late"}, expected=ANY))
        async with asyncio.timeout(30):
            while not await waiting_for_locks(database):
                await asyncio.sleep(0.005)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert not database._postgres.primary._in_doubt
        assert await waiting_for_locks(database) == 0
    assert (await calls.get(1)).note == "first"


async def waiting_for_locks(database: PostgresDatabase) -> int:
    statement = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).columns(sa.column("count", sa.Integer))
    return int((await database.select(statement))[0][0])


async def test_opening_cancelled_at_every_await_leaves_no_connection(postgres_url: str):
    config = config_of(postgres_url, application_name="cancelled opening")

    async def open_and_close() -> None:
        async with PostgresDatabase(config) as database:
            await database.repository(Call).count()

    async with connect(postgres_url) as watcher:

        async def check() -> None:
            async with asyncio.timeout(30):
                while await connections(watcher, "cancelled opening"):
                    await asyncio.sleep(0.01)

        assert await cancel_at_every_await(open_and_close, check) >= 2


async def connections(database: PostgresDatabase, name: str) -> int:
    statement = (
        sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        .bindparams(name=name)
        .columns(sa.column("count", sa.Integer))
    )
    return int((await database.select(statement))[0][0])


async def test_a_commit_after_an_error_that_was_hidden_is_refused(database: PostgresDatabase):

    async def failing() -> None:
        async with database.transaction() as unit:
            session = await orm_session(unit)
            await session.execute(sa.text("INSERT INTO calls (id, number) VALUES (1, 'a')"))
            with pytest.raises(UniqueViolationError):
                await session.execute(sa.text("INSERT INTO calls (id, number) VALUES (1, 'a')"))

    with pytest.raises(DatabaseError) as caught:
        await failing()
    assert caught.value.error_code == "25P02"
    assert not is_retryable(caught.value)
    assert await database.repository(Call).count() == 0


async def test_a_lock_that_is_not_granted_in_time(database: PostgresDatabase):

    async def failing() -> None:
        async with database.transaction() as unit:
            session = await orm_session(unit)
            await session.execute(sa.text("SET LOCAL lock_timeout = 50"))
            async with database.transaction() as other:
                held = await orm_session(other)
                await held.execute(sa.text("LOCK TABLE calls"))
                await session.execute(sa.text("LOCK TABLE calls"))

    with pytest.raises(LockTimeout):
        await failing()


async def test_the_servers_end_of_an_idle_transaction_is_a_lost_connection(postgres_url: str):
    async with connect(postgres_url, idle_transaction_seconds=0.1) as database:

        async def failing() -> None:
            async with database.transaction() as unit:
                assert isinstance(unit.session, PostgresTransaction)
                while not unit.session.connection.is_closed():
                    await asyncio.sleep(0.01)
                await unit.repository(Call).count()

        with pytest.raises(ConnectionLost):
            await failing()


async def test_a_commit_that_cannot_end_the_orm_session_keeps_no_connection(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
):
    close = Lease.close

    async def fail(lease: Lease) -> None:
        await close(lease)
        raise ZeroDivisionError

    async def failing() -> None:
        async with database.transaction() as unit:
            await unit.repository(Call).add(Call(1, "a"))
            await orm_session(unit)
            monkeypatch.setattr(Lease, "close", fail)

    with pytest.raises(ZeroDivisionError):
        await failing()
    await settled(database)
    assert database._postgres.pool().in_use == 0
    assert await database.repository(Call).count() == 0


async def test_what_a_pooled_read_found_is_returned_however_its_transaction_ends(
    postgres_url: str,
):
    async with connect(postgres_url, pgbouncer=True) as database:

        async def read(connection: Any, seconds: float | None) -> Any:
            found = await connection.fetchval("SELECT 7", timeout=seconds)
            connection.terminate()
            return found

        assert await database._postgres.autocommit().run(read) == 7
        await settled(database)


async def test_closing_ends_connections_that_are_being_made(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_pool, "_CLEAN_SECONDS", 0.05)
    async with FaultProxy(postgres_url) as proxy:
        database = connect(proxy.url(postgres_url))
        await database.open()
        pool = database._postgres.primary
        slot = await pool.acquire()
        proxy.stall()
        waiting = asyncio.create_task(pool.acquire())
        while not pool._connecting:
            await asyncio.sleep(0)
        pool.release(slot)
        await database.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await waiting


async def test_closing_frees_connections_that_are_in_use(postgres_url: str):
    database = connect(postgres_url)
    await database.open()
    unit = database.transaction()
    await unit.__aenter__()
    await database.close()
    await database.close()
    with pytest.raises((ConnectionLost, DatabaseError)):
        await unit.__aexit__(None, None, None)
