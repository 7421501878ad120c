import asyncio
import random
import runpy
from pathlib import Path

import pytest

from common.context import DeadlineExceeded, deadline
from common.db.core import (
    CommitOutcomeUnknown,
    ConnectionLost,
    DatabaseConfig,
    Deadlock,
    MemoryDatabase,
    PoolStats,
    PoolTimeout,
    SerializationConflict,
    SessionStateError,
    UniqueViolationError,
)
from common.db.core.testing import Sample
from common.errors import ValidationError, is_retryable
from common.testing import cancel_at_every_await

FaultyDatabase = runpy.run_path(str(Path(__file__).with_name("faulty.py")))["FaultyDatabase"]


@pytest.fixture
async def database():
    async with FaultyDatabase(DatabaseConfig(pool_size=2, max_overflow=1)) as database:
        yield database


def adding(runs):
    async def work(unit):
        runs.append(1)
        await unit.repository(Sample).upsert(Sample(id=1, number=len(runs)))
        return len(runs)

    return work


async def test_conflicts_run_the_whole_work_again(database):
    database.commits.extend([(SerializationConflict(), False), (Deadlock(), False)])
    runs = []
    assert await database.run(adding(runs)) == 3
    assert (await database.repository(Sample).get(1)).number == 3


async def test_retries_end(database):
    database.commits.extend([(SerializationConflict(), False)] * 9)
    runs = []
    with pytest.raises(SerializationConflict):
        await database.run(adding(runs), retries=2)
    assert len(runs) == 3
    assert await database.repository(Sample).count() == 0
    runs.clear()
    with pytest.raises(SerializationConflict):
        await database.run(adding(runs), retries=0)
    assert len(runs) == 1
    for retries in (-1, 1.5, True, 1_000):
        with pytest.raises(ValidationError):
            await database.run(adding(runs), retries=retries)


async def test_pauses_grow_with_jitter_up_to_a_bound(database, monkeypatch):
    asked = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or 0.0)
    database.commits.extend([(SerializationConflict(), False)] * 9)
    await database.run(adding([]), retries=9)
    assert asked == [(0, bound) for bound in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0)]


async def test_nothing_is_retried_beyond_the_deadline(database, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: 1_000.0)
    database.commits.append((SerializationConflict(), False))
    runs = []
    async with deadline(30):
        with pytest.raises(SerializationConflict):
            await database.run(adding(runs))
    assert len(runs) == 1


async def test_an_unknown_outcome_is_not_run_again_unless_that_does_no_harm(database):
    samples = database.repository(Sample)
    for takes_effect in (True, False):
        database.commits.append((CommitOutcomeUnknown(), takes_effect))
        runs = []
        with pytest.raises(CommitOutcomeUnknown) as caught:
            await database.run(adding(runs))
        assert len(runs) == 1
        assert not is_retryable(caught.value)
        assert await samples.delete(1) is takes_effect
    database.commits.append((CommitOutcomeUnknown(), True))
    runs = []
    assert await database.run(adding(runs), idempotent=True) == 2
    assert (await samples.get(1)).number == 2


@pytest.mark.parametrize("error", [ConnectionLost(), ValueError("mine"), UniqueViolationError()])
async def test_other_errors_are_not_run_again(database, error):
    runs = []

    async def work(unit):
        runs.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        await database.run(work)
    assert caught.value is error
    assert len(runs) == 1


async def test_a_commit_finishes_although_the_task_is_cancelled(database):
    samples = database.repository(Sample)
    stored = []

    async def work():
        async with database.transaction() as unit:
            await unit.repository(Sample).upsert(Sample(id=1))
            stored.append("asked to commit")

    async def check():
        # Once the block was left, nothing but the commit decides.
        assert await samples.exists() is bool(stored)
        stored.clear()
        await samples.delete(1)
        assert database.driver.pool().in_use == 0

    assert await cancel_at_every_await(work, check) >= 2


async def test_a_failing_rollback_does_not_hide_what_happened(database):
    async def broken():
        raise ConnectionLost("gone")

    transaction = database.transaction()
    unit = await transaction.__aenter__()
    rollback, unit.session.rollback = unit.session.rollback, broken
    mine = ValueError("mine")
    assert not await transaction.__aexit__(ValueError, mine, None)
    assert mine.__notes__ == ["the rollback failed, too: DB_CONNECTION_LOST"]
    await rollback()


async def test_waiting_for_a_connection_ends():
    config = DatabaseConfig(pool_size=1, max_overflow=0, timeout_seconds=0.01)
    async with MemoryDatabase(config) as database, database.transaction():
        assert database.driver.pool() == PoolStats(size=1, in_use=1)
        with pytest.raises(PoolTimeout) as caught:
            async with database.transaction():
                raise AssertionError("the pool has one connection")
        assert caught.value.timeout_seconds == 0.01


async def test_a_manager_is_used_while_it_is_open():
    database = MemoryDatabase()
    samples = database.repository(Sample)  # nothing is connected by that
    for state in ("not open", "closed"):
        for call in (
            samples.count,
            lambda: database.run(adding([])),
            database.transaction().__aenter__,
        ):
            with pytest.raises(SessionStateError) as caught:
                await call()
            assert caught.value.state == state
        health = await database.health()
        assert (health.ok, health.error) == (False, "DB_SESSION_STATE")
        if state == "not open":
            await database.open()
            await database.open()
            assert await samples.count() == 0
        await database.close()
    with pytest.raises(SessionStateError):
        await database.open()
    never_opened = MemoryDatabase()
    await never_opened.close()
    await never_opened.close()


async def test_closing_is_done_once_however_often_it_is_asked_for():
    database = FaultyDatabase()
    await database.open()
    await asyncio.gather(database.close(), database.close(), database.close())
    await database.close()
    assert database.closes == 1


async def test_tasks_that_open_and_close_at_once_open_and_close_once(monkeypatch):
    database = FaultyDatabase()
    opens = []

    async def slow():
        opens.append(1)
        await asyncio.sleep(0)

    monkeypatch.setattr(database.driver, "open", slow)
    await asyncio.gather(database.open(), database.open(), database.close())
    assert (len(opens), database.closes) == (1, 1)
    with pytest.raises(SessionStateError):
        await database.open()


@pytest.mark.parametrize("isolation", ["snapshot", 1])
async def test_an_isolation_that_does_not_exist_is_refused(database, isolation):
    with pytest.raises(ValidationError, match="serializable") as caught:
        await database.transaction(isolation=isolation).__aenter__()
    assert caught.value.field == "isolation"
    assert database.driver.pool().in_use == 0


async def test_health_has_latency_and_figures_of_the_pool(database):
    async with database.transaction(), database.transaction():
        health = await database.health()
    assert health.ok
    assert health.latency is not None
    assert 0 <= health.latency < 5
    assert (health.system, health.pool) == (
        "memory",
        PoolStats(size=2, in_use=2, idle=0, overflow=0, waiting=0),
    )


async def test_health_tells_of_failures_and_raises_none(database):
    async def lost():
        raise ConnectionLost("gone")

    async def hangs():
        await asyncio.Event().wait()

    async def refused():
        raise ConnectionRefusedError

    database.pings.extend([lost, hangs, refused])
    errors = [(await database.health(timeout_seconds=0.01)).error for _ in range(3)]
    assert errors == ["DB_CONNECTION_LOST", "TimeoutError", "ConnectionRefusedError"]
    assert (await database.health()).ok


async def test_no_call_starts_after_the_deadline(database):
    samples = database.repository(Sample)
    with deadline(0.001):
        await asyncio.sleep(0.01)
        for call in (
            samples.count,
            lambda: samples.add(Sample(id=1)),
            lambda: anext(samples.stream()),
            database.transaction().__aenter__,
        ):
            with pytest.raises(DeadlineExceeded):
                await call()
    assert database.driver.pool().in_use == 0
    assert await samples.count() == 0
