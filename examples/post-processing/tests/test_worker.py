import asyncio
from contextlib import suppress
from uuid import uuid4

import asyncpg
import nats
import pytest
from nats.js.errors import NotFoundError
from post_processing import worker
from post_processing.settings import Database
from post_processing.tables import InboxMark, Transcript, migrations
from post_processing.worker import Worker

from common.db.postgres import PostgresDatabase
from common.domain.calls import CallCompleted, CallStatus


@pytest.fixture
async def database(postgres_url):
    config = Database(url=postgres_url)
    await migrations(config).upgrade()
    async with PostgresDatabase(config) as opened:
        yield opened


@pytest.fixture
async def administrator(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def soon(monkeypatch):
    """What was not acknowledged is delivered again soon."""
    monkeypatch.setattr(worker, "ACK_WAIT_SECONDS", 1.0)


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
    transcripts = database.repository(Transcript)
    async with asyncio.timeout(60):
        while await transcripts.count() < count:
            await asyncio.sleep(0.05)
    return [transcript.call_id for transcript in await transcripts.list(limit=1000)]


async def all_acknowledged(broker):
    async with asyncio.timeout(60):
        while (
            info := await broker.jetstream().consumer_info("CALL", "post-processing")
        ).num_ack_pending or info.num_pending:
            await asyncio.sleep(0.05)
    return info


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
    assert sorted(await processed(database, len(calls))) == sorted(calls)


async def test_an_event_delivered_twice_has_one_effect(broker, database, stopping):
    call, last = uuid4(), uuid4()
    await publish(broker, call, call, last)
    await processed(database, 2)
    info = await all_acknowledged(broker)
    assert info.delivered.stream_seq == 3
    assert sorted(await processed(database, 2)) == sorted([call, last])


async def test_an_effect_that_fails_leaves_no_mark_and_comes_later(
    soon, broker, database, administrator, stopping
):
    await administrator.execute("alter table post_processing.transcripts rename to away")
    call = uuid4()
    await publish(broker, call)
    async with asyncio.timeout(60):  # until it was tried twice
        while True:
            with suppress(NotFoundError):  # the worker has not subscribed yet
                info = await broker.jetstream().consumer_info("CALL", "post-processing")
                if info.num_redelivered:
                    break
            await asyncio.sleep(0.05)
    assert await database.repository(InboxMark).count() == 0
    await administrator.execute("alter table post_processing.away rename to transcripts")
    await all_acknowledged(broker)
    assert await processed(database, 1) == [call]
    assert await database.repository(InboxMark).count() == 1


async def test_broken_connections_neither_lose_nor_repeat_effects(
    soon, broker, database, administrator, stopping
):
    calls = [uuid4() for _ in range(200)]
    broken = 0
    for start in range(0, len(calls), 10):
        await publish(broker, *calls[start : start + 10])
        broken += await administrator.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and application_name = 'post-processing'"
        )
    assert broken
    found = await processed(database, len(calls))
    await all_acknowledged(broker)
    assert sorted(found) == sorted(calls)
    assert await database.repository(Transcript).count() == len(calls)


async def test_an_impossible_message_id_becomes_a_dead_letter(broker, database, stopping):
    call, last = uuid4(), uuid4()
    data = event(call).model_dump_json().encode()
    headers = {"Nats-Msg-Id": "x" * 10_000}
    await broker.jetstream().publish("evt.call.completed", data, headers=headers)
    await publish(broker, last)
    assert await processed(database, 1) == [last]
    await all_acknowledged(broker)
    dead = await broker.jetstream().get_last_msg("DEAD_LETTERS", "dead.evt.call.completed")
    assert dead.data == data


async def test_the_migrations_make_what_the_models_say(postgres_url):
    manager = migrations(Database(url=postgres_url))
    applied = await asyncio.gather(*(manager.upgrade() for _ in range(3)))
    assert sorted(map(bool, applied)) == [False, False, True]
    assert await manager.check() == []
    assert await manager.downgrade("base")


@pytest.mark.parametrize(
    "data", [b"\xff", b"{", b"[]", b'{"call_id": 1}', event("x").model_dump_json().encode()]
)
async def test_an_unreadable_message_becomes_a_dead_letter_and_does_not_stop_the_rest(
    broker, database, stopping, data
):
    call = uuid4()
    await broker.jetstream().publish("evt.call.completed", data)
    await publish(broker, call)
    assert await processed(database, 1) == [call]
    info = await broker.jetstream().consumer_info("CALL", "post-processing")
    assert info.num_redelivered == 0
    dead = await broker.jetstream().get_last_msg("DEAD_LETTERS", "dead.evt.call.completed")
    assert dead.data == data
    assert dead.headers["Dead-Letter-Reason"]
