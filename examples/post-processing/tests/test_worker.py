import asyncio
import json
from dataclasses import replace
from uuid import uuid4

import pytest
from feeding import all_settled, completed, dead_letters, outgoing, processed, progress, publish
from post_processing.settings import Database
from post_processing.tables import InboxMark, Transcript, migrations

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
    assert await database.repository(InboxMark).count() == 0
    await administrator.execute("alter table post_processing.away rename to transcripts")
    await all_settled(nats_url)
    assert await processed(database, 1) == [call]
    assert await database.repository(InboxMark).count() == 1


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


async def test_the_migrations_make_what_the_models_say(postgres_url):
    manager = migrations(Database(url=postgres_url))
    applied = await asyncio.gather(*(manager.upgrade() for _ in range(3)))
    assert sorted(map(bool, applied)) == [False, False, True]
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
    calls, database, worker, nats_url, data, reason
):
    call = uuid4()
    await calls.transport.publish(outgoing(data))
    await publish(calls, call)
    assert await processed(database, 1) == [call]
    (letter,) = await dead_letters(calls, 1)
    assert (letter.subject, letter.data) == ("dead.evt.call.completed", data)
    assert letter.headers["Dead-Letter-Reason"] == reason
    assert letter.headers["Dead-Letter-Consumer"] == "post-processing"
    assert letter.headers["Dead-Letter-Attempts"] == "1"
    assert (await all_settled(nats_url)).redelivered == 0
    assert await database.repository(InboxMark).count() == 1


async def test_a_good_event_of_another_sender_is_handled(calls, database, worker):
    await calls.transport.publish(outgoing(event()))
    await processed(database, 1)
