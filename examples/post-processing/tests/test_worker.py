import asyncio
from uuid import uuid4

import asyncpg
import nats
import pytest
from post_processing.worker import Worker

from common.domain.calls import CallCompleted, CallStatus

# What calls-api's migration makes.
TABLES = """
create table transcripts (
    session_id text primary key, call_id uuid not null, processing_status text not null,
    processed_at timestamptz not null default now()
);
create table inbox (message_id text primary key, handled_at timestamptz default now());
"""


@pytest.fixture
async def database(postgres_url):
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=3) as pool:
        await pool.execute(TABLES)
        yield pool


@pytest.fixture
async def broker(nats_url):
    connection = await nats.connect(nats_url)
    await connection.jetstream().add_stream(name="CALL", subjects=["evt.call.>"])
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


def event(call_id):
    return CallCompleted(
        call_id=str(call_id),
        phone_number="+4930123456",
        duration_seconds=1,
        status=CallStatus.COMPLETED,
    )


async def publish(broker, *call_ids):
    for call_id in call_ids:
        await broker.jetstream().publish(
            "evt.call.completed", event(call_id).model_dump_json().encode()
        )


async def test_every_event_becomes_one_record(broker, database, stopping):
    calls = [uuid4() for _ in range(120)]
    await publish(broker, *calls)
    rows = await processed(database, len(calls))
    assert {row["call_id"] for row in rows} == set(calls)


async def test_an_event_delivered_twice_has_one_effect(broker, database, stopping):
    call, last = uuid4(), uuid4()
    await publish(broker, call, call, last)
    await processed(database, 2)
    async with asyncio.timeout(20):
        while (
            info := await broker.jetstream().consumer_info("CALL", "post-processing")
        ).num_ack_pending or info.num_pending:
            await asyncio.sleep(0.05)
    assert info.delivered.stream_seq == 3
    rows = await database.fetch("select call_id from transcripts")
    assert sorted(row["call_id"] for row in rows) == sorted([call, last])


@pytest.mark.parametrize(
    "data", [b"\xff", b"{", b"[]", b'{"call_id": 1}', event("x").model_dump_json().encode()]
)
async def test_an_unreadable_message_becomes_a_dead_letter_and_does_not_stop_the_rest(
    broker, database, stopping, data
):
    call = uuid4()
    await broker.jetstream().publish("evt.call.completed", data)
    await publish(broker, call)
    assert [row["call_id"] for row in await processed(database, 1)] == [call]
    info = await broker.jetstream().consumer_info("CALL", "post-processing")
    assert info.num_redelivered == 0
    dead = await broker.jetstream().get_last_msg("DEAD_LETTERS", "dead.evt.call.completed")
    assert dead.data == data
    assert dead.headers["Dead-Letter-Reason"]
