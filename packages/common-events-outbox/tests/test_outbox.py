"""Adding messages to a transaction."""

import asyncio
import json

import pytest
from outbox_support import (
    REGISTRY,
    STREAMS,
    Cleaned,
    Flashed,
    Lit,
    Lost,
    Opened,
    add,
    config_of,
    connect,
    count,
    make_outbox,
    make_relay,
    run_sql,
    value,
)
from wire import WireCounter

from common.context import Context, bind
from common.db.core import CheckError, Isolation, SessionStateError, open_database
from common.domain import Keyed, PublishNotAllowedError, UnknownStreamError
from common.errors import ValidationError
from common.events.core import Decoder, EventBus, InMemoryTransport, MessageTooLarge
from common.events.outbox import Outbox, OutboxNotMigrated
from common.events.outbox._outbox import partition_of
from common.testing import cancel_at_every_await


@pytest.mark.parametrize("relay_waits", [True, False])
async def test_adding_is_one_statement_and_one_round_trip(postgres_url, transport, relay_waits):
    outbox = make_outbox()
    async with WireCounter(postgres_url) as wire, connect(wire.url, pool_size=1) as database:
        if relay_waits:  # so that the statement notifies, too
            await run_sql(
                database,
                "INSERT INTO outbox_relay (owner, expires_at) VALUES ('r', clock_timestamp())",
            )
        await add(database, Lit(lamp="a"))  # the connection prepares the statement once

        async def trips(messages: list[Lit]) -> tuple[int, int]:
            async with database.transaction() as tx:
                wire.reset()
                if len(messages) == 1:
                    await outbox.add(tx, messages[0])
                else:
                    await outbox.add_many(tx, messages)
                statements = wire.sent["E"] + wire.sent["Q"]
                assert not wire.sent["P"]
                return statements, wire.received["Z"]

        assert await trips([Lit(lamp="a")]) == (1, 1)
        assert await trips([Lit(lamp="a", number=n) for n in range(500)]) == (1, 1)
        assert await count(database) == 502


async def test_what_is_rolled_back_was_never_there(database):
    outbox = make_outbox()

    async def fail() -> None:
        async with database.transaction() as tx:
            await outbox.add(tx, Lit(lamp="a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await count(database) == 0


async def test_a_row_has_the_columns_of_debezium_and_the_very_bytes_of_the_event(database):
    outbox = make_outbox()
    with bind(Context(correlation_id="chain", tenant="t1")):
        (id_,) = await add(database, Lit(lamp="a", number=7), outbox=outbox)
    (row,) = await run_sql(database, "SELECT * FROM outbox")
    assert (row["id"], row["aggregatetype"], row["aggregateid"], row["type"]) == (
        id_,
        "lamp",
        "a",
        "lamp.lit",
    )
    assert (row["stream"], row["subject"]) == ("LAMP", "evt.lamp.lit")
    assert row["partition"] == partition_of("a")
    assert (row["attempts"], row["next_attempt_at"], row["headers"]) == (0, None, None)
    envelope, message = Decoder([Lit], registry=REGISTRY).decode(
        row["subject"], {}, bytes(row["payload"])
    )
    assert message == Lit(lamp="a", number=7)
    assert (envelope.id, envelope.correlation_id, envelope.tenant) == (id_, "chain", "t1")


async def test_binary_mode_stores_the_headers(database):
    await add(database, Lit(lamp="ä"), outbox=make_outbox(mode="binary"))
    (row,) = await run_sql(database, "SELECT headers, payload FROM outbox")
    assert row["headers"]["ce-type"] == "lamp.lit"
    assert json.loads(row["payload"]) == {"lamp": "ä", "number": 0}


async def test_messages_of_one_call_keep_their_order(database):
    ids = await add(database, *[Lit(lamp=str(n % 7), number=n) for n in range(1000)])
    rows = await run_sql(database, "SELECT id FROM outbox ORDER BY position")
    assert [row[0] for row in rows] == ids


async def test_an_idempotency_key_becomes_the_id(database):
    outbox = make_outbox()
    async with database.transaction() as tx:
        assert await outbox.add(tx, Keyed(Lit(lamp="a"), "k-1")) == "k-1"
        assert await outbox.add(tx, Lit(lamp="a"), id="k-2") == "k-2"


async def test_nothing_added_is_no_statement(database):
    async with database.transaction() as tx:
        assert await make_outbox().add_many(tx, []) == []


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Lost(what="key"), UnknownStreamError),
        (Cleaned(by="me"), PublishNotAllowedError),
        (Flashed(text="x" * 2000), MessageTooLarge),
    ],
)
async def test_what_cannot_leave_is_refused_before_anything_is_written(database, message, error):
    outbox = make_outbox(max_payload=1500)
    async with database.transaction() as tx:
        with pytest.raises(error):
            await outbox.add(tx, message)
        with pytest.raises(error):
            await outbox.add_many(tx, [Lit(lamp="a"), message])
        await outbox.add(tx, Lit(lamp="still usable"))
    assert await value(database, "SELECT array_agg(aggregateid) FROM outbox") == ["still usable"]


async def test_a_key_that_cannot_be_stored_is_refused_before_anything_is_written(database):
    outbox = make_outbox()
    async with database.transaction() as tx:
        for key in ("a\0b", "x" * 1025):
            with pytest.raises(ValueError, match="key"):
                await outbox.add(tx, Lit(lamp=key))
        await outbox.add(tx, Lit(lamp="still usable"))
    assert await value(database, "SELECT array_agg(aggregateid) FROM outbox") == ["still usable"]


async def test_only_partitions_that_relays_know_are_stored(database):
    await add(database, Lit(lamp="a"))
    for partition in (-1, 64):
        with pytest.raises(CheckError):
            await run_sql(database, "UPDATE outbox SET partition = $1", partition)


async def test_a_service_that_is_not_declared_is_told_so(database):
    outbox = Outbox(source="/strangers", registry=REGISTRY, streams=STREAMS)
    async with database.transaction() as tx:
        with pytest.raises(PublishNotAllowedError, match="strangers"):
            await outbox.add(tx, Opened(door="d"))
    assert await count(database) == 0


async def test_more_than_ten_thousand_messages_are_refused(database):
    async with database.transaction() as tx:
        with pytest.raises(ValidationError, match="10000"):
            await make_outbox().add_many(tx, (Lit(lamp="a") for _ in range(10_001)))


async def test_an_outbox_of_a_bus_encodes_as_the_bus_does(database):
    bus = EventBus(
        InMemoryTransport(),
        source="/doors",
        registry=REGISTRY,
        streams=STREAMS,
    )
    outbox = Outbox.of(bus)
    async with database.transaction() as tx:
        await outbox.add(tx, Opened(door="d"))
        with pytest.raises(PublishNotAllowedError):
            await outbox.add(tx, Lit(lamp="a"))
    envelope = json.loads(await value(database, "SELECT payload FROM outbox"))
    assert envelope["source"] == "/doors"


async def test_a_database_without_the_table_says_what_to_do(database):
    await run_sql(database, "ALTER TABLE outbox RENAME TO elsewhere")
    with pytest.raises(OutboxNotMigrated, match="common-outbox migrate"):
        await add(database, Lit(lamp="a"))


async def test_other_units_of_work_are_refused(database):
    outbox = make_outbox()
    async with open_database("memory://") as memory, memory.transaction() as tx:
        with pytest.raises(ValidationError, match="PostgresDatabase"):
            await outbox.add(tx, Lit(lamp="a"))
    async with database.transaction(read_only=True) as tx:
        with pytest.raises(SessionStateError):
            await outbox.add(tx, Lit(lamp="a"))


async def test_any_isolation_will_do(database):
    outbox = make_outbox()
    for isolation in Isolation:
        async with database.transaction(isolation=isolation) as tx:
            await outbox.add(tx, Lit(lamp="a"))
    assert await count(database) == len(Isolation)


async def test_tables_in_a_schema_of_their_own(postgres_url, transport, broker):
    from common.events.outbox.migrations import OutboxMigrations

    odd = 'it\'s "odd" {outbox} %s :x $1'
    async with connect(postgres_url, schema_name=odd) as database:
        await OutboxMigrations(config_of(postgres_url, schema_name=odd)).upgrade()
        async with make_relay(database, transport, archive=True, poll_interval_seconds=60):
            await add(database, Lit(lamp="a"))
            async with asyncio.timeout(30):
                while not broker.streams["LAMP"].messages:
                    await asyncio.sleep(0.01)
    async with connect(postgres_url) as database:
        assert await count(database) == 0


async def test_cancelling_at_any_await_writes_nothing(database):
    outbox = make_outbox()

    async def write() -> None:
        async with database.transaction() as tx:
            await outbox.add(tx, Lit(lamp="a"))
            await outbox.add_many(tx, [Lit(lamp="b")])
            raise ZeroDivisionError

    async def start() -> None:
        with pytest.raises(ZeroDivisionError):
            await write()

    async def check() -> None:
        assert await count(database) == 0
        stats = database.driver.pool()
        assert stats is not None
        assert stats.waiting == 0

    assert await cancel_at_every_await(start, check) > 3
    await add(database, Lit(lamp="a"))
    assert await count(database) == 1
