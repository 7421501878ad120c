import asyncio

import pytest
from nats_settings import settings

from common.events.core._errors import MessageTooLarge, MissingStream, PublishError, PublishTimeout
from common.events.core._transport import Receipt
from common.events.nats._transport import NatsTransport
from common.testing import NatsServer


async def test_nothing_to_publish(transport):
    assert await transport.publish_many([]) == []


async def test_one_result_for_each_in_their_order(transport, make):
    messages = [make() for _ in range(3_000)]
    receipts = await transport.publish_many(messages)
    assert [each.id for each in receipts] == [each.id for each in messages]
    assert sorted(each.sequence for each in receipts) == list(range(1, 3_001))
    assert transport._pipeline.window._messages == transport.config.max_in_flight


async def test_a_failure_is_a_result_and_the_others_are_stored(transport, make):
    large = make(data=bytes(transport.connection.max_payload))
    lost = make(subject="evt.nobody", stream="")
    messages = [make(), large, make(), lost, make()]
    results = await transport.publish_many(messages)
    assert [type(each) for each in results] == [
        Receipt,
        MessageTooLarge,
        Receipt,
        MissingStream,
        Receipt,
    ]


async def test_messages_of_a_key_keep_their_order_even_if_one_is_refused(transport, make):
    keys = [str(number * number % 7) for number in range(500)]
    messages = [make(key=key) for key in keys]
    messages[250] = make(key=keys[250], data=bytes(transport.connection.max_payload))
    results = await transport.publish_many(messages)
    assert [place for place, each in enumerate(results) if not isinstance(each, Receipt)] == [250]
    for key in set(keys):
        sequences = [
            result.sequence
            for message, result in zip(messages, results, strict=True)
            if message.key == key and isinstance(result, Receipt)
        ]
        assert sequences == sorted(sequences)


async def test_only_one_message_of_a_key_is_on_its_way(make):
    async with NatsServer() as server, NatsTransport(settings(server.url)) as transport:
        server.pause()
        messages = [make(key="a"), make(key="a"), make(key="b"), make(), make()]
        task = asyncio.create_task(transport.publish_many(messages, timeout=60))
        await asyncio.sleep(0.05)
        waiting = [entry.message for entry in transport._pipeline._in_flight.values()]
        assert waiting == [messages[0], messages[2], messages[3], messages[4]]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not transport._pipeline._in_flight
        assert transport._pipeline.window._messages == transport.config.max_in_flight
        server.resume()


async def test_after_a_failure_that_may_pass_the_rest_of_its_key_is_not_sent(make):
    async with NatsServer() as server:
        config = settings(server.url, max_in_flight=2)
        async with NatsTransport(config) as transport:
            server.pause()
            messages = [make(key="a") for _ in range(50)] + [make(key="b")] + [make(key="a")]
            results = await transport.publish_many(messages, timeout=0.3)
            assert [type(each) for each in results] == [
                PublishTimeout,
                *[PublishError] * 49,
                PublishTimeout,
                PublishError,
            ]
            assert "an earlier message of its key" in str(results[1])
            server.resume()


async def test_cancelling_at_every_turn_leaks_nothing(config, make):
    config = config.model_copy(update={"max_in_flight": 5})
    async with NatsTransport(config) as transport:
        await transport.api.request("STREAM.CREATE.CALL", {"name": "CALL", "subjects": ["evt.>"]})
        for turns in range(20):
            messages = [make(key=str(number % 3)) for number in range(10)]
            messages += [make() for _ in range(10)]
            task = asyncio.create_task(transport.publish_many(messages))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not transport._pipeline._in_flight
            assert transport._pipeline.window._messages == 5
        results = await transport.publish_many([make() for _ in range(20)])
        assert all(isinstance(each, Receipt) for each in results)
