import asyncio
from collections import Counter

import asyncpg
import nats
import pytest
from demo.spoiled import spoiled
from demo.stored import DeadLetters, Records, connected

from common.domain import streams
from common.domain.calls import CallCompleted
from common.errors import DatabaseError, MessageBusError
from common.events.core import EventBus, InMemoryTransport, Reject


async def test_what_a_stream_no_longer_keeps_is_counted_too(nats_url):
    async with await nats.connect(nats_url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="CALL", subjects=["evt.call.>"], max_msgs=2)
        async with connected(nats_url) as broker:
            assert await broker.stored(CallCompleted) == 0
            for number in range(5):
                await jetstream.publish("evt.call.completed", b"x", headers={"Nats-Msg-Id": "1"})
                await jetstream.publish("evt.call.completed", bytes(number))
            assert await broker.stored(CallCompleted) == 6


async def test_a_broker_without_the_stream_is_an_error_that_the_demo_tells(nats_url):
    async with connected(nats_url) as broker:
        with pytest.raises(MessageBusError):
            await broker.stored(CallCompleted)


async def test_an_effect_applied_twice_is_seen(postgres_url):
    records = Records(postgres_url)
    with pytest.raises(DatabaseError):
        await records.count()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "create schema post_processing;"
        "create table post_processing.transcripts (session_id uuid, call_id uuid);"
        "insert into post_processing.transcripts"
        " select gen_random_uuid(), lpad(to_hex(n % 3), 32, '0')::uuid from generate_series(1, 4) n"
    )
    await connection.close()
    assert await records.count() == (3, 4)


async def test_every_kind_becomes_a_dead_letter_with_its_reason():
    transport = InMemoryTransport()
    bus = EventBus(
        transport,
        source="/calls",
        service="calls-api",
        streams=streams.extended(services={"calls-api": ["CALL"]}),
    )

    @bus.subscribe(CallCompleted, durable="picky")
    async def picky(event: CallCompleted) -> Reject:
        return Reject("as post-processing does with an id that is none")

    await bus.start()
    letters = DeadLetters(transport)
    assert await letters.count() == Counter()
    bad = spoiled(1)
    for message in bad:
        await transport.publish(message.outgoing())
    async with asyncio.timeout(20):
        while (await letters.count()).total() < len(bad):
            await asyncio.sleep(0.01)
    assert await letters.count() == Counter(message.reason for message in bad)
    await bus.stop()
