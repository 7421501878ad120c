"""Effects that happen once."""

import asyncio
from datetime import timedelta

import pytest
from outbox_support import REGISTRY, STREAMS, Lit, count, run_sql, until, value

from common.db.core import UnitOfWork
from common.events.core import Constant, EventBus, EventContext, InMemoryTransport, Retry
from common.events.outbox import OutboxNotMigrated, SqlInbox
from common.events.outbox._sql import fetch
from common.testing import cancel_at_every_await

WAITING = """\
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%inbox%'"""


async def effect(tx: UnitOfWork, consumer: str, number: int = 0) -> None:
    await fetch(tx, "insert", "effect", "INSERT INTO effect VALUES ($1, 'x', $2)", consumer, number)


async def test_effect_and_mark_commit_together(database):
    inbox = SqlInbox(database)
    for _ in range(3):
        async with inbox.transaction("billing", "m-1") as opened:
            if not opened.duplicate:
                await effect(opened.transaction, "billing")
    async with inbox.transaction("audit", "m-1") as opened:
        assert not opened.duplicate  # each consumer has marks of its own
    assert await count(database, "effect") == 1
    assert await count(database, "inbox") == 2


async def test_a_handler_that_fails_leaves_neither(database):
    inbox = SqlInbox(database)

    async def fail() -> None:
        async with inbox.transaction("billing", "m-1") as opened:
            await effect(opened.transaction, "billing")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await count(database, "effect"), await count(database, "inbox")) == (0, 0)
    async with inbox.transaction("billing", "m-1") as opened:
        assert not opened.duplicate


@pytest.mark.parametrize("fails", [False, True])
async def test_a_concurrent_duplicate_waits_for_the_first(database, fails):
    inbox = SqlInbox(database)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with inbox.transaction("billing", "m-1") as opened:
            await effect(opened.transaction, "billing")
            entered.set()
            await leave.wait()
            if fails:
                raise ZeroDivisionError

    async def second() -> bool:
        async with inbox.transaction("billing", "m-1") as opened:
            if not opened.duplicate:
                await effect(opened.transaction, "billing")
            return opened.duplicate

    one = asyncio.create_task(first())
    await entered.wait()
    other = asyncio.create_task(second())
    await until(lambda: value(database, WAITING))
    assert not other.done()
    leave.set()
    await asyncio.gather(one, return_exceptions=True)
    assert await other is not fails
    assert await count(database, "effect") == 1


async def test_cancelling_at_any_await_leaves_both_or_neither(database):
    inbox = SqlInbox(database)
    numbers = iter(range(10_000))

    async def start() -> None:
        number = next(numbers)
        async with inbox.transaction("billing", str(number)) as opened:
            await effect(opened.transaction, str(number))

    async def check() -> None:
        different = await value(
            database,
            "SELECT count(*) FROM inbox i FULL JOIN effect e ON e.consumer = i.message_id "
            "WHERE e.id IS NULL OR i.message_id IS NULL",
        )
        assert different == 0

    assert await cancel_at_every_await(start, check) > 3


async def test_old_marks_are_pruned_in_batches_and_young_ones_kept(database):
    await run_sql(
        database,
        "INSERT INTO inbox SELECT 'c', n::text, clock_timestamp() - "
        "CASE WHEN n <= 4500 THEN interval '8 days' ELSE interval '6 days' END "
        "FROM generate_series(1, 4600) n",
    )
    inbox = SqlInbox(database)
    assert await inbox.prune(timedelta(days=7)) == 4500
    assert await inbox.prune(timedelta(days=7)) == 0
    assert await count(database, "inbox") == 100


async def test_a_database_without_the_table_says_what_to_do(database):
    await run_sql(database, "DROP TABLE inbox")
    with pytest.raises(OutboxNotMigrated, match="common-outbox migrate"):
        async with SqlInbox(database).transaction("billing", "m-1"):
            pass


async def test_a_bus_with_this_inbox_has_each_effect_once(database):
    transport = InMemoryTransport()
    bus = EventBus(transport, source="/lamps", registry=REGISTRY, streams=STREAMS)
    attempts: list[int] = []

    @bus.subscribe(
        Lit, durable="count", inbox=SqlInbox(database), retry=Retry(5, backoff=Constant(0.01))
    )
    async def handle(event: Lit, ctx: EventContext) -> None:
        attempts.append(event.number)
        await effect(ctx.transaction(UnitOfWork), "count", event.number)
        if attempts.count(event.number) < 2:
            raise ZeroDivisionError  # after the effect, which rolls back

    await bus.start()
    try:
        for n in range(10):
            await bus.publish(Lit(lamp="a", number=n), id=f"m-{n}")
        transport.broker.advance(3_600)  # beyond the duplicate window: stored twice
        for n in range(10):
            await bus.publish(Lit(lamp="a", number=n), id=f"m-{n}")
        await transport.drained(timeout=60)
    finally:
        await bus.stop()
    assert len(transport.broker.streams["LAMP"].messages) == 20
    rows = await run_sql(database, "SELECT number FROM effect ORDER BY number")
    assert [row[0] for row in rows] == list(range(10))
    assert len(attempts) == 20
