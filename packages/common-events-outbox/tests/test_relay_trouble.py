"""Relays in trouble: they wait without haste, end at once when asked, and are not silent."""

import asyncio
import logging
import random

import pytest
from outbox_support import (
    Calls,
    DeafDatabase,
    Lit,
    Opened,
    Slow,
    add,
    config_of,
    connect,
    count,
    declare,
    emptied,
    make_relay,
    numbers,
    run_sql,
    until,
    value,
)

from common.db.core import ConnectionLost
from common.db.postgres import PostgresDatabase
from common.events.core import BrokerUnavailable, InMemoryTransport, PublishRejected
from common.events.outbox import OutboxNotMigrated
from common.events.outbox._sql import fetch
from common.testing import FaultProxy

AWAY = BrokerUnavailable("away")


async def test_each_of_several_streams_that_are_away_is_tried_seldom_and_little(database, broker):
    async with Calls(broker) as transport:
        await declare(transport)
        await add(
            database,
            *[Lit(lamp=str(n)) for n in range(50)],
            *[Opened(door=str(n)) for n in range(50)],
        )
        with transport.failing(AWAY):
            async with make_relay(database, transport) as relay:
                holds = relay._holds
                await until(lambda: len(holds.streams) == 2)
                for failures in range(1, 4):
                    del transport.batches[:]
                    for hold in holds._held.values():
                        hold.until = 0.0  # both are due in one step
                    relay._wake.now()
                    await until(
                        lambda n=failures: (
                            [hold.failures for hold in holds._held.values()] == [n, n]
                        )
                    )
                    assert [len(batch) for batch in transport.batches] == [16, 16]
        assert await value(database, "SELECT max(attempts) FROM outbox") == 0


async def test_after_a_long_outage_messages_go_out_soon_however_long_refusals_wait(
    database, transport, broker
):
    await add(database, Lit(lamp="a"))
    slow = {"retry_first_seconds": 3_600, "retry_max_seconds": 3_600}
    async with make_relay(database, transport, **slow) as relay:
        with transport.failing(AWAY):
            await until(lambda: relay._holds.streams)
            hold = relay._holds._held["LAMP"]
            hold.failures, hold.until = 1_000, 0.0  # as after hours
            relay._wake.now()
            await until(lambda: relay._holds._held["LAMP"].failures > 1_000)
            assert relay._holds.wait() <= 5
        await emptied(database)
    assert numbers(broker) == [0]


async def test_a_relay_that_lost_all_its_partitions_does_not_spin(database, broker):
    async with Calls(broker) as transport:
        await declare(transport)
        await add(database, Lit(lamp="a"))
        with transport.failing(AWAY):
            async with make_relay(database, transport, lease_seconds=600) as relay:
                await until(lambda: relay._holds.streams)
                await run_sql(
                    database,
                    "UPDATE outbox_lease SET owner = 'other', fence = fence + 1, "
                    "expires_at = 'infinity'",
                )
                relay._leases.share_anew()
                relay._wake.now()
                await until(lambda: not relay._leases.held)
                assert await steps(relay, 2.0) < 200
            assert relay._holds.streams == []


@pytest.mark.parametrize("refused", [False, True])
async def test_a_relay_that_lost_its_lease_while_it_published_writes_nothing_down(
    database, broker, refused
):
    async with Slow(broker) as transport:
        await declare(transport)
        await add(database, Lit(lamp="a"))
        async with make_relay(database, transport, lease_seconds=600, attempts=1) as relay:
            await transport.waiting.wait()
            await run_sql(
                database,
                "UPDATE outbox_lease SET owner = 'other', fence = fence + 1, "
                "expires_at = 'infinity'",
            )
            if refused:
                relay._leases.share_anew()  # else it tries again, as long as it holds for sure
            with transport.failing(PublishRejected("no"), subject="evt.lamp.>" if refused else "x"):
                transport.gate.set()
                await until(lambda: not relay._leases.held)  # long before it is to renew them
    assert numbers(broker) == ([] if refused else [0])
    (row,) = await run_sql(database, "SELECT attempts, next_attempt_at FROM outbox")
    assert tuple(row) == (0, None)
    assert await count(database, "outbox_dead") == 0


async def steps(relay, seconds: float) -> int:
    """Return how often a relay looks for something to do."""
    made, settle = 0, relay._settle

    async def counted() -> None:
        nonlocal made
        made += 1
        await settle()

    relay._settle = counted
    await asyncio.sleep(seconds)
    return made


async def test_stopping_while_the_database_fails_does_not_sleep_first(database, transport):
    relay = make_relay(database, transport)
    entered, gate = asyncio.Event(), asyncio.Event()
    slept: list[float] = []

    async def step() -> None:
        entered.set()
        await gate.wait()
        raise ConnectionLost("gone")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with relay:
        relay._step = step  # type: ignore[method-assign]
        relay._wake.now()
        await entered.wait()
        relay._wake.sleep = sleep  # type: ignore[method-assign]
        stopping = asyncio.create_task(relay.stop())
        await until(lambda: relay._stopping)
        gate.set()
        await stopping
    assert slept == []


async def test_news_of_leases_outlives_a_failure(database, transport):
    async with make_relay(database, transport, lease_seconds=600, poll_interval_seconds=600) as one:
        step, failed = one._step, asyncio.Event()

        async def fail() -> None:
            one._step = step  # type: ignore[method-assign]
            one._wake.payloads.add("leases")
            failed.set()
            raise ConnectionLost("gone")

        await until(lambda: one._wake.listening)
        one._step = fail  # type: ignore[method-assign]
        one._wake.now()
        await failed.wait()
        before = one._leases._expires
        await until(lambda: one._leases._expires > before)  # kept again, long before it is due


async def test_news_of_leases_that_came_before_it_listened_is_made_up_for(
    postgres_url, database, transport, broker
):
    """No lease would end in this test's time."""
    slow = {"lease_seconds": 3_600, "poll_interval_seconds": 3_600}
    async with FaultProxy(postgres_url) as proxy, InMemoryTransport(broker) as other:
        proxy.refuse()
        async with DeafDatabase(config_of(postgres_url), proxy.url(postgres_url)) as deaf:
            first, second = make_relay(deaf, transport, **slow), make_relay(database, other, **slow)
            async with first, second:
                await until(lambda: second._wake.listening)
                assert (len(first._leases.held), len(second._leases.held)) == (64, 0)
                proxy.heal()
                await until(lambda: (len(first._leases.held), len(second._leases.held)) == (32, 32))


async def test_a_server_that_became_a_standby_is_waited_for(
    postgres_url, database, transport, broker
):
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    setting = f'ALTER DATABASE "{name}" {{}} default_transaction_read_only'
    async with connect(postgres_url) as own, make_relay(own, transport) as relay:
        await until(lambda: relay._leases.held)
        await alter(database, setting.format("SET") + " = on")
        await until(lambda: getattr(relay._trouble, "error_code", None) == "25006")
        assert not (await relay.health()).ok
        await alter(database, setting.format("RESET"))
        async with connect(postgres_url) as fresh:
            await add(fresh, Lit(lamp="a"))
            await emptied(fresh)
    assert numbers(broker) == [0]


async def alter(database: PostgresDatabase, statement: str) -> None:
    """Change the database's settings, and let everybody connect anew."""
    async with database.transaction() as tx:
        await fetch(tx, "set", "database", "SET TRANSACTION READ WRITE")
        await fetch(tx, "alter", "database", statement)
    await run_sql(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


async def test_a_relay_that_ends_beside_an_application_says_so_and_may_start_again(
    database, transport, caplog
):
    relay = make_relay(database, transport)
    await relay.start()
    await run_sql(database, "ALTER TABLE outbox RENAME TO elsewhere")
    relay._wake.now()
    await until(lambda: not relay._task or relay._task.done())
    (record,) = [each for each in caplog.records if "has ended" in each.message]
    assert record.levelno == logging.ERROR
    assert "OUTBOX_NOT_MIGRATED" in str(record.error)
    health = await relay.health()
    assert (health.ok, health.running) == (False, False)
    assert "OUTBOX_NOT_MIGRATED" in str(health.error)
    await run_sql(database, "ALTER TABLE elsewhere RENAME TO outbox")
    with pytest.raises(OutboxNotMigrated):
        await relay.start()  # what became of the last run
    await add(database, Lit(lamp="a"))
    async with relay:
        await emptied(database)


async def test_a_defect_is_told_by_its_name_only(database, transport):
    relay = make_relay(database, transport)

    async def step() -> None:
        raise ZeroDivisionError("secret")

    await relay.start()
    relay._step = step  # type: ignore[method-assign]
    relay._wake.now()
    await until(lambda: not relay._task or relay._task.done())
    assert (await relay.health()).error == "ZeroDivisionError"
    with pytest.raises(ZeroDivisionError):
        await relay.stop()


async def test_listening_goes_on_after_any_failure(database, transport):
    relay = make_relay(database, transport)
    listen, failures = database.listen, iter([OSError("x"), ValueError("y")])

    def broken(*channels: str, queue_size: int = 10_000):
        if (error := next(failures, None)) is not None:
            raise error
        return listen(*channels, queue_size=queue_size)

    database.listen = broken
    async with relay:
        await until(lambda: relay._wake.listening)
    assert next(failures, None) is None


async def test_a_refused_message_waits_however_long_its_key_is(database, transport):
    chosen = random.Random(1)
    key = "".join(chr(chosen.randrange(0x10000, 0x1F000)) for _ in range(1024))
    await add(database, Lit(lamp=key), Lit(lamp="b"))
    with transport.failing(PublishRejected("no \ud800 \0")):  # nor does it matter what it is told
        async with make_relay(database, transport, attempts=2):
            await emptied(database)
    assert await count(database, "outbox_dead") == 2


async def test_through_a_pooler_the_relay_polls(postgres_url, database, transport, broker):
    async with (
        connect(postgres_url, pgbouncer=True) as pooled,
        make_relay(pooled, transport, archive=True, vacuum_after=1, attempts=1) as relay,
    ):
        for n in range(3):
            await add(pooled, Lit(lamp="a", number=n))
            await until(lambda n=n: numbers(broker) == list(range(n + 1)))
        with transport.failing(PublishRejected("no")):
            await add(pooled, Lit(lamp="a", number=9))
            await emptied(database)
        assert not (await relay.health()).listening
    assert await count(database, "outbox_archive") == 3
    assert await count(database, "outbox_dead") == 1
