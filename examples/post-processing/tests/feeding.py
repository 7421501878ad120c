"""What the tests send to the worker, and what became of it."""

import asyncio
import json
from dataclasses import dataclass
from uuid import uuid4

import nats
from post_processing.tables import Transcript

from common.domain.calls import CallCompleted, CallStatus
from common.events.core import DEAD_LETTERS, Outgoing


def completed(call_id, **changes):
    values = {"phone_number": "+4930123456", "duration_seconds": 1, "status": CallStatus.COMPLETED}
    return CallCompleted.model_validate({"call_id": str(call_id)} | values | changes)


async def publish(bus, *call_ids):
    (await bus.publish_many(completed(each) for each in call_ids)).raise_for_failures()


def outgoing(data):
    """Bytes as somebody else's program might publish them."""
    return Outgoing("evt.call.completed", data, id=str(uuid4()), stream="CALL")


async def processed(database, count):
    transcripts = database.repository(Transcript)
    async with asyncio.timeout(60):
        while await transcripts.count() < count:
            await asyncio.sleep(0.05)
    return [transcript.call_id for transcript in await transcripts.list(limit=1000)]


async def told(bus, count):
    """Wait until so many results are published; return them, in their order."""
    async with asyncio.timeout(60):
        while len(found := await bus.transport.browse("TRANSCRIPT", limit=1000)) < count:
            await asyncio.sleep(0.05)
    return [json.loads(each.data) for each in found]


async def marks(administrator):
    return await administrator.fetchval("select count(*) from post_processing.inbox")


async def dead_letters(bus, count):
    async with asyncio.timeout(60):
        while len(letters := await bus.transport.browse(DEAD_LETTERS, limit=1000)) < count:
            await asyncio.sleep(0.05)
    return letters


@dataclass
class Progress:
    """How far the worker's consumer is, as the broker says."""

    delivered: int
    deliveries: int
    outstanding: int
    waiting: int
    redelivered: int


async def progress(url, *, stream="CALL", durable="post-processing"):
    connection = await nats.connect(url)
    try:
        info = await connection.jetstream().consumer_info(stream, durable)
    finally:
        await connection.close()
    assert info.delivered is not None
    return Progress(
        info.delivered.stream_seq,
        info.delivered.consumer_seq,
        info.num_ack_pending or 0,
        info.num_pending or 0,
        info.num_redelivered or 0,
    )


async def all_settled(url, **consumer):
    async with asyncio.timeout(60):
        while (now := await progress(url, **consumer)).outstanding or now.waiting:
            await asyncio.sleep(0.05)
    return now
