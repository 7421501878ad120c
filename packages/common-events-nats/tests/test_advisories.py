import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from nats_consuming import Nats, connected, nothing, receive, settled, take, until

from common.events.core._errors import DeclarationConflict, MissingStream
from common.events.nats._errors import JetStreamError

TWICE: dict[str, Any] = {"max_deliver": 2, "ack_wait": 0.5}
SLOWLY: dict[str, Any] = {"max_deliver": 2, "ack_wait": 1.0}


async def advisories(nats: Nats) -> int:
    info = await nats.api.request("STREAM.INFO.ADVISORIES")
    return info["state"]["messages"]


async def test_a_message_delivered_too_often_comes_once_more_as_exhausted(nats: Nats):
    await nats.publish("s.a", b"body", Nats_Msg_Id="17")
    await nats.publish("s.b")
    consumer = await nats.consume(**TWICE)
    await receive(consumer, 4)
    exhausted = await receive(consumer, 2)
    first = next(d for d in exhausted if d.sequence == 1)
    assert all(delivery.exhausted for delivery in exhausted)
    assert (first.subject, first.data, first.stream) == ("s.a", b"body", "S")
    assert first.headers == {"Nats-Msg-Id": "17"}
    assert first.attempt == 2
    assert abs(first.timestamp.timestamp() - time.time()) < 30
    for delivery in exhausted:
        await delivery.term("stored as a dead letter")
        assert delivery.settled

    async def forgotten() -> bool:
        return await advisories(nats) == 0

    await until(forgotten)
    await nothing(consumer, 1.0)


async def test_an_exhausted_message_handed_back_comes_again(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(max_deliver=2, ack_wait=4.0)
    for _ in range(2):
        [delivery] = await receive(consumer, 1)
        await delivery.nak()
    [exhausted] = await receive(consumer, 1)
    await exhausted.nak(0.3)
    [exhausted] = await receive(consumer, 1)
    assert exhausted.exhausted
    for _ in range(10):
        await exhausted.in_progress()
        await nothing(consumer, 0.5)
    await exhausted.ack()
    await exhausted.nak()
    await nothing(consumer, 0.6)


async def test_what_was_exhausted_while_nobody_ran_is_not_missed(nats: Nats, nats_url):
    """Whoever had it dies with it, and another durable's reader is no witness."""
    await nats.publish("s.a")
    async with connected(nats_url) as other:
        consumer = await other.consume(**TWICE)
        [first] = await receive(consumer, 1)
        await first.nak()
        await receive(consumer, 1)
        await other.connection.close()
    # Only a request makes the server look; somebody asks, and goes.

    async def raised() -> bool:
        await nats.connection.request(
            "$JS.API.CONSUMER.MSG.NEXT.S.d", b'{"batch":1,"no_wait":true}', timeout=5
        )
        return await advisories(nats) == 1

    await until(raised)
    consumer = await nats.consume(**TWICE)
    [exhausted] = await receive(consumer, 1)
    assert exhausted.exhausted
    assert exhausted.sequence == 1
    await exhausted.ack()


async def test_each_durable_gets_only_its_own(nats: Nats):
    await nats.publish("s.a")
    careless = await nats.consume("a", **TWICE)
    careful = await nats.consume("b", **TWICE)
    await receive(careless, 2)
    await take(careful, 1)
    [exhausted] = await receive(careless, 1)
    assert exhausted.exhausted
    await exhausted.ack()
    await nothing(careful, 0.5)


async def test_a_message_removed_meanwhile_is_forgotten(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(**TWICE)
    await receive(consumer, 2)
    await nats.api.request("STREAM.MSG.DELETE.S", {"seq": 1})
    await nothing(consumer, 1.5)
    if await advisories(nats):

        async def forgotten() -> bool:
            return await advisories(nats) == 0

        await until(forgotten)


async def test_an_exhausted_message_not_settled_survives_stop_and_close(nats: Nats, nats_url):
    await nats.publish("s.a")
    async with connected(nats_url) as other:
        consumer = await other.consume(**SLOWLY)
        await receive(consumer, 2)
        await receive(consumer, 1)
        await consumer.close()
    again = await nats.consume(**SLOWLY)
    [exhausted] = await receive(again, 1)
    assert exhausted.exhausted
    await exhausted.ack()


async def test_another_stream_that_keeps_the_advisories_is_used(nats: Nats):
    await nats.stream("OPS", subjects=["$JS.EVENT.ADVISORY.>"])
    await nats.publish("s.a")
    consumer = await nats.consume(**TWICE)
    await receive(consumer, 2)
    [exhausted] = await receive(consumer, 1)
    await exhausted.ack()
    names = (await nats.api.request("STREAM.NAMES"))["streams"]
    assert sorted(names) == ["OPS", "S"]


async def test_the_stream_of_advisories_deleted_while_running_is_made_anew(nats: Nats):
    consumer = await nats.consume(**TWICE)
    await nats.api.request("STREAM.DELETE.ADVISORIES")

    async def there_again() -> bool:
        try:
            info = await nats.api.request("STREAM.INFO.ADVISORIES")
        except MissingStream:
            return False
        return info["state"]["consumer_count"] == 1

    await until(there_again)
    await nats.publish("s.a")
    deliveries = await receive(consumer, 3)
    assert [delivery.exhausted for delivery in deliveries] == [False, False, True]
    await deliveries[-1].ack()


async def test_advisories_that_cannot_be_kept_any_more_end_the_consumer_loudly(nats: Nats):
    """Or what ends its handler would be lost in silence."""
    consumer = await nats.consume(**TWICE)
    receiving = asyncio.create_task(consumer.receive())

    async def ended() -> bool:
        # Again and again, for the consumer makes it anew; in the same moment, the server even
        # lets two streams be made that overlap.
        with suppress(MissingStream):
            await nats.api.request("STREAM.DELETE.ADVISORIES")
        with suppress(JetStreamError):
            await nats.stream("OPS", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
        return receiving.done()

    await until(ended)
    with pytest.raises(MissingStream, match="ADVISORIES"):
        await receiving


async def test_a_handler_that_fails_forever_ends_after_max_deliver(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(max_deliver=3)
    attempts = []
    while True:
        [delivery] = await receive(consumer, 1)
        if delivery.exhausted:
            break
        attempts.append(delivery.attempt)
        await delivery.nak()
    assert attempts == [1, 2, 3]
    await delivery.ack()


async def test_in_a_work_queue_an_exhausted_message_is_removed_once_it_is_settled(nats: Nats):
    await nats.stream("Q", retention="workqueue")
    await nats.publish("q.a")
    consumer = await nats.consume(stream="Q", subjects=("q.>",), **TWICE)
    await receive(consumer, 2)
    [exhausted] = await receive(consumer, 1)
    assert (await nats.api.request("STREAM.INFO.Q"))["state"]["messages"] == 1
    await exhausted.term()

    async def removed() -> bool:
        return (await nats.api.request("STREAM.INFO.Q"))["state"]["messages"] == 0

    await until(removed)


async def test_without_max_deliver_there_is_no_stream_of_advisories(nats: Nats):
    await nats.publish("s.a")
    await take(await nats.consume(), 1)
    await settled(nats)
    assert (await nats.api.request("STREAM.NAMES"))["streams"] == ["S"]


async def test_a_conflict_of_the_consumer_closes_what_was_opened(nats: Nats):
    await nats.consume("d", ordered=True, max_outstanding=4)
    tasks = len(asyncio.all_tasks())
    with pytest.raises(DeclarationConflict):
        await nats.consume("d", max_deliver=3)
    assert len(asyncio.all_tasks()) == tasks
