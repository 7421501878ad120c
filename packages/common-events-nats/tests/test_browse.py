import random
from datetime import UTC, datetime, timedelta

import pytest

from common.events.core._declarations import StreamSpec
from common.events.core._errors import DeclarationConflict, MissingStream


async def test_messages_come_back_as_they_were_published(transport, make):
    before = datetime.now(UTC)
    message = make(data=bytes(range(256)), headers={"ce-type": "größe"})
    await transport.publish(message)
    (found,) = await transport.browse("CALL")
    assert (found.stream, found.sequence, found.subject) == ("CALL", 1, message.subject)
    assert found.data == message.data
    assert found.headers["Nats-Msg-Id"] == message.id
    assert found.headers["ce-type"] == "größe"
    assert abs(found.timestamp - before) < timedelta(minutes=1)


async def test_pages_filters_and_gaps(transport, make):
    subjects = ["evt.call.completed", "evt.call.failed"] * 5
    await transport.publish_many([make(subject=subject) for subject in subjects])
    assert [each.sequence for each in await transport.browse("CALL", limit=3)] == [1, 2, 3]
    assert [each.sequence for each in await transport.browse("CALL", after=8)] == [9, 10]
    assert await transport.remove("CALL", 4)
    assert not await transport.remove("CALL", 4)
    assert not await transport.remove("CALL", 400)
    failed = await transport.browse("CALL", subject="evt.call.failed")
    assert [each.sequence for each in failed] == [2, 6, 8, 10]
    assert len(await transport.browse("CALL", subject="evt.call.>")) == 9
    assert list(await transport.browse("CALL", subject="evt.none")) == []
    assert list(await transport.browse("CALL", after=10)) == []
    assert list(await transport.browse("CALL", limit=0)) == []


async def test_a_stream_that_is_not_there(transport):
    with pytest.raises(MissingStream):
        await transport.browse("NONE")
    with pytest.raises(MissingStream):
        await transport.remove("NONE", 1)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", "a x 0\r\n\r\nPUB evil 0\r\n\r\n"])
async def test_a_name_that_would_break_the_protocol_is_of_no_stream(transport, name):
    got: list[bytes] = []
    await transport.connection.subscribe("evil", lambda subject, *_: got.append(subject))
    with pytest.raises(MissingStream, match="no stream has the name"):
        await transport.browse(name)
    with pytest.raises(MissingStream, match="no stream has the name"):
        await transport.remove(name, 1)
    with pytest.raises(DeclarationConflict, match="no stream has the name"):
        await transport.declare([StreamSpec(name=name, subjects=("x.>",))], mode="create")
    await transport.connection.flush()
    assert not got
    assert transport.connection.reconnects == 0


@pytest.mark.parametrize("limit", [1, 7, 1_000])
async def test_nothing_is_missed_or_doubled_between_gaps(transport, make, limit):
    chance = random.Random(limit)
    subjects = [f"evt.call.{chance.choice('aab')}" for _ in range(300)]
    await transport.publish_many([make(subject=subject) for subject in subjects])
    gone = set(chance.sample(range(1, 301), 60)) | set(range(100, 140))
    for sequence in gone:
        await transport.remove("CALL", sequence)
    for subject in (None, "evt.call.b"):
        wanted = [
            sequence
            for sequence, each in enumerate(subjects, 1)
            if sequence not in gone and subject in (None, each)
        ]
        found: list[int] = []
        while page := await transport.browse(
            "CALL", subject=subject, after=found[-1] if found else 0, limit=limit
        ):
            assert len(page) <= limit
            found += [each.sequence for each in page]
        assert found == wanted
