"""The relay against a real database, and a broker in memory."""

import asyncio
import random
import time

import pytest
from outbox_support import (
    Calls,
    DeafDatabase,
    Flashed,
    Lit,
    Opened,
    Slow,
    add,
    by_key,
    change,
    config_of,
    connect,
    count,
    emptied,
    make_outbox,
    make_relay,
    numbers,
    run_sql,
    stored,
    until,
    value,
)

from common.db.core import ConnectionLost
from common.db.postgres import PostgresDatabase
from common.errors import DatabaseError
from common.events.core import (
    BrokerUnavailable,
    InMemoryBroker,
    InMemoryConfig,
    InMemoryTransport,
    PublishError,
    PublishRejected,
    PublishTimeout,
    TransportClosed,
)
from common.events.outbox import OutboxNotMigrated, Relay
from common.events.outbox._sql import names_of
from common.testing import FaultProxy, cancel_at_every_await


async def test_what_is_committed_is_published_as_it_was_added(database, transport, broker):
    ids = await add(database, *[Lit(lamp=str(n % 3), number=n) for n in range(100)])
    payloads = [
        bytes(row[0]) for row in await run_sql(database, "SELECT payload FROM outbox ORDER BY 1")
    ]
    async with make_relay(database, transport):
        await emptied(database)
    assert {each["id"] for each in stored(broker)} == set(ids)
    assert sorted(each.data for each in broker.streams["LAMP"].messages.values()) == payloads
    assert all(
        found == sorted(found) and len(found) in (33, 34)
        for found in by_key(stored(broker)).values()
    )


async def test_a_transaction_that_commits_late_is_not_skipped(database, transport, broker):
    outbox = make_outbox()
    async with make_relay(database, transport):
        async with database.transaction() as late:
            await outbox.add(late, Lit(lamp="late", number=1))
            for n in range(50):
                await add(database, Lit(lamp="early", number=n))
            await until(lambda: len(stored(broker)) == 50)
            assert numbers(broker, "late") == []
        await until(lambda: numbers(broker, "late") == [1])


async def test_order_of_each_key_holds_with_two_relays_and_four_writers(
    database, transport, broker
):
    outbox = make_outbox()
    keys = [f"k{n}" for n in range(12)]

    async def write(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(75):
            await change(database, chosen.choice(keys), outbox)

    async with (
        InMemoryTransport(broker) as other,
        make_relay(database, transport, batch_size=7),
        make_relay(database, other, batch_size=7),
    ):
        await asyncio.gather(*[write(seed) for seed in range(4)])
        await emptied(database)
    found = by_key(stored(broker))
    assert sum(map(len, found.values())) == 300
    assert all(each == list(range(1, len(each) + 1)) for each in found.values())


SLEEPY = {"poll_interval_seconds": 3_600, "lease_seconds": 3_600}


async def test_a_relay_that_sleeps_is_woken_by_the_commit(database, transport, broker):
    async with make_relay(database, transport, **SLEEPY) as relay:
        await asleep(relay)
        for n in range(3):
            await add(database, Lit(lamp="a", number=n))
            await until(lambda n=n: len(stored(broker)) == n + 1)


async def test_writers_that_name_the_schema_public_wake_relays_that_do_not(
    postgres_url, database, transport, broker
):
    async with make_relay(database, transport, **SLEEPY) as relay:
        await asleep(relay)
        async with connect(postgres_url, schema_name="public") as named:
            await add(named, Lit(lamp="a"))
            await until(lambda: numbers(broker) == [0])


async def asleep(relay: Relay) -> None:
    """Wait until a relay sleeps from which only a notification can wake it in time."""
    await until(lambda: relay._wake.listening)
    sleeps: list[float] = []
    sleep = relay._wake.sleep

    async def noted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    relay._wake.sleep = noted  # type: ignore[method-assign]
    relay._pace._pause = relay.config.poll_interval_seconds
    relay._wake.now()
    await until(lambda: sleeps[-1:] > [600.0])


async def test_without_notifications_the_relay_polls_and_listens_again_later(
    postgres_url, database, transport, broker
):
    async with FaultProxy(postgres_url) as proxy:
        proxy.refuse()
        deaf = DeafDatabase(config_of(postgres_url), proxy.url(postgres_url))
        async with deaf, make_relay(deaf, transport, poll_interval_seconds=0.1) as relay:
            for n in range(3):
                await add(database, Lit(lamp="a", number=n))
                await until(lambda n=n: len(stored(broker)) == n + 1)
            assert not (await relay.health()).listening
            proxy.heal()

            async def listening() -> bool:
                return (await relay.health()).listening

            await until(listening)


async def test_an_idle_relay_asks_seldom(database, transport):
    relay = make_relay(database, transport, poll_interval_seconds=30, upkeep_seconds=3600)
    asked, read = 0, relay._statements.read

    async def counted(*arguments, **options):
        nonlocal asked
        asked += 1
        return await read(*arguments, **options)

    relay._statements.read = counted  # type: ignore[method-assign]
    async with relay:
        await asyncio.sleep(2)
    assert 0 < asked <= 15  # naps that double from 5 ms, and some news at its start


async def test_a_plan_made_for_an_empty_table_does_not_read_all_of_a_full_one(
    postgres_url, database, transport, broker
):
    from common.events.outbox._upkeep import vacuum

    await vacuum(database, names_of(database))
    async with connect(postgres_url, pool_size=1, max_overflow=0) as own:
        options = {"batch_size": 50, "upkeep_seconds": 3600, "vacuum_after": 0}
        async with make_relay(own, transport, **options):
            for n in range(10):  # plans are settled after a few runs
                await add(database, Lit(lamp="a"))
                await until(lambda n=n: len(stored(broker)) == n + 1)
            before = await scans(database)
            await add(database, *[Lit(lamp=str(n)) for n in range(3_000)])
            await until(lambda: len(stored(broker)) == 3_010)
    assert await scans(database) - before <= 5  # the lag is measured once


async def scans(database: PostgresDatabase) -> int:
    await run_sql(database, "SELECT pg_stat_force_next_flush()")
    return await value(
        database, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'outbox'"
    )


# Failures of the broker


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), PublishTimeout("no answer")])
async def test_while_the_broker_is_away_nothing_is_counted_and_little_is_tried(
    database, broker, error
):
    async with Calls(broker) as transport:
        await declare_all(transport)
        await add(database, *[Lit(lamp=str(n), number=n) for n in range(100)])
        with transport.failing(error):
            async with make_relay(database, transport, retry_max_seconds=0.4) as relay:
                await until(lambda: len(transport.batches) >= 4)
                start, tries = time.monotonic(), len(transport.batches)
                await asyncio.sleep(2)
                seconds = time.monotonic() - start
                # Pauses of 0.2 to 0.4 s by then, and a few messages each time.
                assert len(transport.batches) - tries <= seconds / 0.2 + 1
                assert all(len(batch) <= 16 for batch in transport.batches[2:])
                rows = await run_sql(
                    database, "SELECT DISTINCT attempts, next_attempt_at, last_error FROM outbox"
                )
                assert [tuple(row) for row in rows] == [(0, None, None)]
                health = await relay.health()
                assert not health.ok
                assert health.error is not None
                assert error.code in health.error
        async with make_relay(database, transport) as relay:
            await emptied(database)
            assert (await relay.health()).ok
        assert sorted(numbers(broker)) == list(range(100))


async def declare_all(transport: InMemoryTransport) -> None:
    from outbox_support import declare

    await declare(transport)


async def test_a_broker_that_comes_back_gets_everything_in_order(database, transport, broker):
    await add(database, *[Lit(lamp=str(n % 4), number=n) for n in range(200)])
    async with make_relay(database, transport):
        with transport.failing(BrokerUnavailable("away")):
            await asyncio.sleep(0.5)
            await add(database, *[Lit(lamp=str(n % 4), number=n) for n in range(200, 220)])
        await emptied(database)
    assert all(each == sorted(each) for each in by_key(stored(broker)).values())
    assert len(stored(broker)) == 220


async def test_a_stream_that_takes_nothing_does_not_hold_up_the_others(database, transport, broker):
    await add(database, *[Lit(lamp=str(n), number=n) for n in range(600)])
    with transport.failing(PublishRejected("full", retryable=True), subject="evt.lamp.>"):
        async with make_relay(database, transport, batch_size=50):
            await add(database, *[Opened(door=str(n), number=n) for n in range(300)])
            await until(lambda: len(stored(broker, "DOOR")) == 300)
            assert await value(database, "SELECT max(attempts) FROM outbox") == 0
            assert stored(broker) == []
    async with make_relay(database, transport):
        await emptied(database)
    assert len(stored(broker)) == 600
    assert await count(database, "outbox_dead") == 0


class Picky(InMemoryTransport):
    """Fails for some messages, by a function."""

    def __init__(self, broker, judge) -> None:
        super().__init__(broker)
        self.judge = judge

    async def publish(self, message, *, timeout=None):  # noqa: ASYNC109
        error = self.judge(message)
        if error is not None:
            await asyncio.sleep(0)
            raise error
        return await super().publish(message, timeout=timeout)


async def test_a_refused_message_dies_after_its_attempts_and_its_key_goes_on(database, broker):
    tried: list[float] = []

    def judge(message):
        if b'"number":666' in message.data:
            tried.append(time.monotonic())
            assert numbers(broker, "bad")[-1:] in ([], [1])  # nothing of its key overtakes it
            return PublishRejected("never")
        return None

    async with Picky(broker, judge) as transport:
        await declare_all(transport)
        await add(
            database,
            Lit(lamp="bad", number=1),
            Lit(lamp="bad", number=666),
            *[Lit(lamp="bad", number=n) for n in range(2, 6)],
            *[Lit(lamp=f"good {n}", number=n) for n in range(50)],
        )
        async with make_relay(database, transport, attempts=4, batch_size=5):
            await until(lambda: len(stored(broker)) >= 51)  # the others do not wait
            await emptied(database)
    assert numbers(broker, "bad") == [1, 2, 3, 4, 5]
    assert len(tried) == 4
    (dead,) = await run_sql(database, "SELECT * FROM outbox_dead")
    assert (dead["aggregateid"], dead["attempts"]) == ("bad", 4)
    assert dead["last_error"] == "PUBLISH_REJECTED: never"
    assert b'"number":666' in bytes(dead["payload"])


async def test_thousands_that_wait_behind_a_failure_do_not_starve_other_keys(database, broker):
    def judge(message):
        return PublishRejected("no") if message.key == "bad" else None

    async with Picky(broker, judge) as transport:
        await declare_all(transport)
        await add(database, *[Lit(lamp="bad", number=n) for n in range(2_000)])
        relay = make_relay(
            database, transport, batch_size=20, retry_first_seconds=3600, retry_max_seconds=3600
        )
        async with relay:
            await add(database, *[Lit(lamp=f"k{n}", number=n) for n in range(100)])
            await until(lambda: len(stored(broker)) == 100)

            async def settled() -> bool:
                return await count(database) == 2_000

            await until(settled)
            lag = await relay.lag()
    assert (lag.rows, lag.failing, lag.dead) == (2_000, 1, 0)
    assert lag.age > 0


async def test_one_message_that_fails_for_another_reason_only_waits(database, broker):
    failures = iter([PublishError("what"), PublishTimeout("slow")])

    def judge(message):
        return next(failures, None) if message.key == "x" else None

    async with Picky(broker, judge) as transport:
        await declare_all(transport)
        async with make_relay(database, transport, attempts=1):
            await add(
                database, *[Lit(lamp=key, number=n) for n in range(3) for key in ("x", "y", "z")]
            )
            await emptied(database)
    assert by_key(stored(broker)) == {key: [0, 1, 2] for key in "xyz"}
    assert await count(database, "outbox_dead") == 0


async def test_a_payload_over_the_brokers_limit_becomes_a_dead_letter(database):
    broker = InMemoryBroker(InMemoryConfig(max_payload=2_000))
    async with InMemoryTransport(broker) as transport:
        await declare_all(transport)
        await add(database, Flashed(number=1, text="x" * 5_000), Flashed(number=2))
        async with make_relay(database, transport, attempts=2):
            await emptied(database)
    assert numbers(broker) == [2]
    assert await value(database, "SELECT last_error FROM outbox_dead") is not None
    assert (await value(database, "SELECT last_error FROM outbox_dead")).startswith(
        "MESSAGE_TOO_LARGE"
    )


async def test_a_missing_stream_is_counted_and_ends_in_dead_letters(database):
    broker = InMemoryBroker()
    async with InMemoryTransport(broker) as transport:
        await add(database, Lit(lamp="a"))
        async with make_relay(database, transport, attempts=2):
            await emptied(database)
    assert (await value(database, "SELECT last_error FROM outbox_dead")).startswith(
        "MISSING_STREAM"
    )


async def test_a_closed_transport_ends_the_relay_loudly(database, broker):
    await add(database, Lit(lamp="a"))
    transport = InMemoryTransport(broker)
    relay = make_relay(database, transport)
    with pytest.raises(TransportClosed):
        await relay.run()
    assert await count(database) == 1
    assert await value(database, "SELECT count(*) FROM outbox_lease WHERE owner IS NULL") == 64


# Failures of the database


async def test_a_database_without_the_tables_says_what_to_do(database, transport):
    await run_sql(database, "DROP TABLE outbox_lease")
    relay = make_relay(database, transport)
    with pytest.raises(OutboxNotMigrated, match="common-outbox migrate"):
        await relay.start()
    with pytest.raises(OutboxNotMigrated):
        await relay.run()
    await run_sql(database, "DROP TABLE outbox")
    with pytest.raises(OutboxNotMigrated):
        await relay.lag()
    health = await relay.health()
    assert not health.ok
    assert "OUTBOX_NOT_MIGRATED" in str(health.error)


async def test_a_user_without_rights_is_told_so(database, postgres_url, transport):
    role = "poor_" + postgres_url.rpartition("/")[2][-20:]
    await run_sql(database, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        url = f"postgresql://{role}:p@" + postgres_url.rpartition("@")[2]
        async with connect(url) as poor:
            with pytest.raises(DatabaseError, match="permission denied"):
                await make_relay(poor, transport).start()
    finally:
        await run_sql(database, f"DROP ROLE {role}")


async def test_connections_that_break_are_made_anew(postgres_url, database, transport, broker):
    outbox = make_outbox()
    async with (
        FaultProxy(postgres_url) as proxy,
        connect(proxy.url(postgres_url)) as through,
        make_relay(through, transport, batch_size=3, poll_interval_seconds=0.05),
    ):
        for n in range(8):
            for key in "abc":
                await change(database, key, outbox)
            proxy.cut()
            if n % 3 == 0:
                proxy.refuse()
                await asyncio.sleep(0.2)
                proxy.heal()
        await emptied(database)
    found = by_key(stored(broker))
    assert found == {key: list(range(1, 9)) for key in "abc"}


async def test_a_database_that_is_away_at_the_start_is_waited_for(
    postgres_url, database, transport, broker
):
    await add(database, Lit(lamp="a"))
    async with FaultProxy(postgres_url) as proxy, connect(proxy.url(postgres_url)) as through:
        proxy.refuse()
        proxy.cut()
        async with make_relay(through, transport) as relay:
            health = await relay.health()
            assert (health.ok, health.running) == (False, True)
            assert ConnectionLost.code in str(health.error)
            proxy.heal()
            await emptied(database)


# Ending


async def test_cancelling_the_relay_at_any_await_loses_nothing(database, broker):
    published = asyncio.Event()

    class Once(InMemoryTransport):
        async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
            found = await super().publish_many(messages, timeout=timeout)
            published.set()
            return found

    async with Once(broker) as transport:
        await declare_all(transport)
        added: list[str] = []

        async def start() -> None:
            added.extend(await add(database, Lit(lamp="a"), Lit(lamp="b")))
            published.clear()
            relay = make_relay(database, transport, poll_interval_seconds=0.01)
            work = asyncio.current_task()
            assert work is not None

            async def stop() -> None:
                await published.wait()
                relay._stopping = True
                relay._wake.now()

            stopping = asyncio.create_task(stop())
            try:
                await relay._main()
            finally:
                stopping.cancel()

        async def check() -> None:
            left = {row[0] for row in await run_sql(database, "SELECT id FROM outbox")}
            there = {each["id"] for each in stored(broker)}
            assert left | there >= set(added)
            assert await count(database, "outbox_dead") == 0
            # Handed back, whatever happened, so that the next one need not wait.
            assert not await value(database, "SELECT count(owner) FROM outbox_lease")

        assert await cancel_at_every_await(start, check) > 10
        async with make_relay(database, transport):
            await emptied(database)
    ids = [each["id"] for each in stored(broker)]
    assert set(ids) >= set(added)
    assert len(ids) == len(set(ids))


async def test_stopping_finishes_what_is_in_hand_and_leaves_the_rest(database, broker):
    async with Slow(broker) as transport:
        await declare_all(transport)
        await add(database, *[Lit(lamp="a", number=n) for n in range(5)])
        relay = make_relay(database, transport)
        await relay.start()
        await transport.waiting.wait()
        stopping = asyncio.create_task(relay.stop(drain=60))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        transport.gate.set()
        await stopping
        assert numbers(broker) == [0]
        assert await count(database) == 4
        assert not await value(database, "SELECT count(owner) FROM outbox_lease")
        assert await count(database, "outbox_relay") == 0
        await relay.stop()  # idempotent
        async with make_relay(database, transport):
            await emptied(database)
    assert numbers(broker) == [0, 1, 2, 3, 4]


async def test_a_drain_that_takes_too_long_is_cut_off(database, broker):
    async with Slow(broker) as transport:
        await declare_all(transport)
        await add(database, Lit(lamp="a"))
        relay = make_relay(database, transport)
        await relay.start()
        await transport.waiting.wait()
        await relay.stop(drain=0.05)
        assert await count(database) == 1
        transport.gate.set()
        async with relay:  # and may be started again
            await emptied(database)
    assert numbers(broker) == [0]
