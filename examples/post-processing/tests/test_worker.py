import asyncio
import json
from dataclasses import replace
from uuid import uuid4

import pytest
from feeding import (
    all_settled,
    completed,
    dead_letters,
    marks,
    outgoing,
    processed,
    progress,
    publish,
    told,
)
from post_processing.settings import Database
from post_processing.tables import Transcript, migrations
from post_processing.worker import make_worker

from common.db.postgres import PostgresDatabase

CONNECTIONS = (
    "from pg_stat_activity where datname = current_database()"
    " and application_name = 'post-processing'"
)


async def test_every_event_becomes_one_record(calls, database, worker):
    made = [uuid4() for _ in range(120)]
    await publish(calls, *made)
    assert sorted(await processed(database, len(made))) == sorted(made)


async def test_an_event_delivered_twice_has_one_effect(calls, database, worker, nats_url):
    call, last = uuid4(), uuid4()
    message = calls.encode(completed(call))
    for position in range(3):  # under ids which the broker does not know as one
        await calls.transport.publish(replace(message, id=f"{message.id}-{position}"))
    await publish(calls, last)
    await processed(database, 2)
    assert (await all_settled(nats_url)).delivered == 4
    assert sorted(await processed(database, 2)) == sorted([call, last])


async def test_an_effect_that_fails_leaves_no_mark_and_comes_later(
    calls, database, administrator, worker, nats_url
):
    await administrator.execute("alter table post_processing.transcripts rename to away")
    call = uuid4()
    await publish(calls, call)
    async with asyncio.timeout(60):
        while not (await progress(nats_url)).redelivered:  # until it was tried twice
            await asyncio.sleep(0.05)
    assert await marks(administrator) == 0
    assert await waiting(administrator) == 0
    await administrator.execute("alter table post_processing.away rename to transcripts")
    await all_settled(nats_url)
    assert await processed(database, 1) == [call]
    assert await waiting(administrator) == 1
    assert await marks(administrator) == 1


async def test_broken_connections_neither_lose_nor_repeat_effects(
    calls, database, administrator, worker, nats_url
):
    made = [uuid4() for _ in range(200)]
    broken = 0
    for start in range(0, len(made), 10):
        await publish(calls, *made[start : start + 10])
        broken += await administrator.fetchval(
            f"select count(pg_terminate_backend(pid)) {CONNECTIONS}"
        )
    assert broken
    found = await processed(database, len(made))
    await all_settled(nats_url)
    assert sorted(found) == sorted(made)
    assert await database.repository(Transcript).count() == len(made)


async def waiting(administrator):
    return await administrator.fetchval("select count(*) from post_processing.outbox")


async def test_every_record_is_told_of_with_its_cause(calls, database, worker, results):
    receipt_ids = {}
    for call in [uuid4() for _ in range(20)]:
        message = calls.encode(completed(call))
        receipt_ids[str(call)] = message.id
        await calls.transport.publish(message)
    events = await told(results, 20)
    records = {str(each.call_id): each for each in await database.repository(Transcript).list()}
    for event in events:
        call_id = event["subject"]
        assert event["type"] == "transcript.processed"
        assert event["source"] == "/post-processing"
        assert event["causationid"] == receipt_ids.pop(call_id)
        assert event["data"] == {
            "call_id": call_id,
            "session_id": str(records[call_id].session_id),
            "processing_status": "completed",
            "transcript_available": True,
        }
    assert not receipt_ids


async def test_a_record_without_its_event_is_none(calls, database, administrator, worker, nats_url):
    await administrator.execute("alter table post_processing.outbox rename to away")
    call = uuid4()
    await publish(calls, call)
    async with asyncio.timeout(60):
        while not (await progress(nats_url)).redelivered:
            await asyncio.sleep(0.05)
    assert await database.repository(Transcript).count() == await marks(administrator) == 0
    await administrator.execute("alter table post_processing.away rename to outbox")
    assert await processed(database, 1) == [call]
    await all_settled(nats_url)
    assert await waiting(administrator) == 1


async def test_nothing_is_told_of_a_record_that_is_rolled_back(
    calls, database, administrator, worker, results, nats_url
):
    await administrator.execute(
        """
        create function refuse() returns trigger language plpgsql as
            $$ begin raise 'not now' using errcode = 'serialization_failure'; end $$;
        create constraint trigger at_commit after insert on post_processing.transcripts
            deferrable initially deferred for each row execute function refuse();
        """
    )
    call = uuid4()
    await publish(calls, call)
    async with asyncio.timeout(60):
        while not (await progress(nats_url)).redelivered:
            await asyncio.sleep(0.05)
    assert await database.repository(Transcript).count() == await marks(administrator) == 0
    await administrator.execute("drop trigger at_commit on post_processing.transcripts")
    await all_settled(nats_url)
    assert await processed(database, 1) == [call]
    (event,) = await told(results, 1)
    (record,) = await database.repository(Transcript).list()
    assert event["data"]["session_id"] == str(record.session_id)  # none of an earlier attempt


async def test_what_the_release_before_has_handled_is_not_handled_again(
    calls, settings, administrator, nats_url
):
    manager = migrations(settings.database)
    await manager.upgrade("15754d1b44db")
    handled, fresh = calls.encode(completed(uuid4())), completed(uuid4())
    await administrator.execute(
        "insert into post_processing.inbox (message_id, created_at) values"
        " ($1, '2026-11-01'), ('other/a/b', '2026-11-02')",
        f"post-processing/{handled.id}",
    )
    assert await manager.upgrade()
    rows = await administrator.fetch(
        "select consumer, message_id, handled_at::date::text from post_processing.inbox"
        " order by handled_at"
    )
    assert [tuple(row) for row in rows] == [
        ("post-processing", handled.id, "2026-11-01"),
        ("other", "a/b", "2026-11-02"),
    ]
    assert await manager.check() == []
    async with PostgresDatabase(settings.database) as database:
        bus = make_worker(settings, database)
        await bus.start()
        await calls.transport.publish(handled)
        await calls.publish(fresh)
        assert [str(each) for each in await processed(database, 1)] == [fresh.call_id]
        await all_settled(nats_url)
        assert await database.repository(Transcript).count() == 1
        await bus.stop()
    await manager.downgrade("15754d1b44db")
    rows = await administrator.fetch("select message_id from post_processing.inbox")
    assert {row[0] for row in rows} > {f"post-processing/{handled.id}", "other/a/b"}
    assert len(rows) == 3
    assert await manager.upgrade()
    assert await manager.check() == []
    assert await marks(administrator) == 3


async def test_the_migrations_make_what_the_models_say(postgres_url):
    manager = migrations(Database(url=postgres_url))
    applied = await asyncio.gather(*(manager.upgrade() for _ in range(3)))
    assert sorted(map(len, applied)) == [0, 0, len(await manager.history())]
    assert await manager.check() == []
    assert await manager.downgrade("base")


def event(**changes):
    envelope = {
        "specversion": "1.0",
        "type": "call.completed",
        "source": "/elsewhere",
        "id": "m-1",
        "dataschema": "urn:common:call.completed/1",
        "data": completed(uuid4()).model_dump(mode="json"),
    }
    return json.dumps(envelope | changes).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "malformed"),
        (b"{", "malformed"),
        (b"[]", "malformed"),
        (b"", "malformed"),
        (b"[" * 100_000, "malformed"),
        (completed(uuid4()).model_dump_json().encode(), "malformed"),  # data without an envelope
        (event(id="x" * 10_000), "malformed"),
        (event(type="call.started"), "malformed"),
        (event(dataschema="urn:common:call.completed/99"), "unknown_version"),
        (event(data={"call_id": 1}), "invalid_data"),
        (event(data=completed("no UUID").model_dump(mode="json")), "rejected"),
    ],
)
async def test_a_bad_message_becomes_a_dead_letter_and_does_not_stop_the_rest(
    calls, database, administrator, worker, nats_url, data, reason
):
    call = uuid4()
    await calls.transport.publish(outgoing(data))
    await publish(calls, call)
    assert await processed(database, 1) == [call]
    (letter,) = await dead_letters(calls, 1)
    assert await waiting(administrator) == 1
    assert (letter.subject, letter.data) == ("dead.evt.call.completed", data)
    assert letter.headers["Dead-Letter-Reason"] == reason
    assert letter.headers["Dead-Letter-Consumer"] == "post-processing"
    assert letter.headers["Dead-Letter-Attempts"] == "1"
    assert (await all_settled(nats_url)).redelivered == 0
    assert await marks(administrator) == 1


async def test_a_good_event_of_another_sender_is_handled(calls, database, worker):
    await calls.transport.publish(outgoing(event()))
    await processed(database, 1)
