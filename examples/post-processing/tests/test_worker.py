import asyncio
import json
from uuid import uuid4

import asyncpg
import nats
import pytest
from calls_api.publisher import STREAM
from calls_api.store import SCHEMA
from post_processing.worker import Worker


@pytest.fixture
async def database(postgres_url):
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=3) as pool:
        await pool.execute(SCHEMA)
        yield pool


@pytest.fixture
async def broker(nats_url):
    connection = await nats.connect(nats_url)
    await connection.jetstream().add_stream(STREAM)
    yield connection
    await connection.close()


@pytest.fixture
async def stopping(database, broker):
    """A running worker; setting the event stops it."""
    event = asyncio.Event()
    task = asyncio.create_task(Worker(broker, database).run(event))
    yield event
    event.set()
    await asyncio.wait_for(task, 30)


async def processed(database, count):
    async with asyncio.timeout(20):
        while await database.fetchval("select count(*) from transcripts") < count:
            await asyncio.sleep(0.05)
    return await database.fetch("select * from transcripts")


async def publish(broker, *call_ids):
    for call_id in call_ids:
        await broker.jetstream().publish(
            "evt.call.completed", json.dumps({"call_id": str(call_id)}).encode()
        )


async def test_every_event_becomes_one_record(broker, database, stopping):
    calls = [uuid4() for _ in range(120)]
    await publish(broker, *calls)
    rows = await processed(database, len(calls))
    assert {row["call_id"] for row in rows} == set(calls)


async def test_an_event_delivered_twice_has_one_effect(broker, database, stopping):
    call, last = uuid4(), uuid4()
    await publish(broker, call, call, last)
    rows = await processed(database, 2)
    assert [row["effects"] for row in rows] == [1, 1]


@pytest.mark.parametrize("data", [b"\xff", b"{", b"[]", b'{"call_id": 1}', b'{"call_id": "x"}'])
async def test_an_unreadable_message_does_not_stop_the_rest(broker, database, stopping, data):
    call = uuid4()
    await broker.jetstream().publish("evt.call.completed", data)
    await publish(broker, call)
    assert [row["call_id"] for row in await processed(database, 1)] == [call]
    info = await broker.jetstream().consumer_info("CALL", "post-processing")
    assert info.num_redelivered == 0
