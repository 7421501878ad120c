import asyncio
import time

import pytest
from nats_settings import settings

from common.events.core._declarations import StreamSpec
from common.events.core._errors import BrokerUnavailable, PublishTimeout, TransportClosed
from common.events.core._transport import ConsumerSpec, Receipt, TransportHealth
from common.events.nats._errors import JetStreamDisabled, NatsAuthenticationError
from common.events.nats._transport import NatsTransport
from common.testing import NatsServer

CALLS = StreamSpec(name="CALL", subjects=("evt.call.>",))


async def healthy(transport: NatsTransport) -> TransportHealth:
    """Wait until it is; JetStream answers a moment after its server does."""
    async with asyncio.timeout(60):
        while not (health := await transport.health()).ok:
            await asyncio.sleep(0.05)
    return health


async def test_constructing_connects_to_nothing():
    transport = NatsTransport(settings("nats://nowhere.invalid"))
    health = await transport.health()
    assert (health.ok, health.transport, health.latency) == (False, "nats", None)
    await transport.close()


async def test_what_needs_a_connection_says_so(config, make):
    transport = NatsTransport(config)
    spec = ConsumerSpec(durable="d", stream="CALL", subjects=("evt.call.>",))
    for call in (
        transport.publish(make()),
        transport.publish_many([make()]),
        transport.consume(spec),
        transport.browse("CALL"),
        transport.remove("CALL", 1),
        transport.plan([]),
    ):
        with pytest.raises(TransportClosed):
            await call


async def test_opening_and_closing_twice_is_once(config):
    transport = NatsTransport(config)
    await asyncio.gather(transport.open(), transport.open())
    await healthy(transport)
    await asyncio.gather(transport.close(), transport.close())
    await transport.close()
    assert not (await transport.health()).ok


async def test_what_was_closed_can_be_opened_again(config, make):
    transport = NatsTransport(config)
    spec = ConsumerSpec(durable="d", stream="CALL", subjects=("evt.call.>",))
    for turn in range(1, 4):
        async with transport:
            await transport.declare([CALLS], mode="create")
            # The same subject each time: what was known of it belongs to the former connection.
            receipts = [await transport.publish(make()), *await transport.publish_many([make()])]
            sequences = [each.sequence for each in receipts if isinstance(each, Receipt)]
            assert sequences == [2 * turn - 1, 2 * turn]
            consumer = await transport.consume(spec)
            found = []
            async with asyncio.timeout(60):
                while len(found) < 2:
                    found += await consumer.receive()
            for delivery in found:
                await delivery.ack()
        with pytest.raises(TransportClosed):
            await transport.publish(make())


async def test_deadlines_are_kept_after_opening_again(make):
    """The timer of the former connection must not be waited for."""
    async with NatsServer() as server:
        transport = NatsTransport(settings(server.url))
        async with transport:
            await transport.declare([CALLS], mode="create")
            await transport.publish(make())
        async with transport:
            server.pause()
            async with asyncio.timeout(60):
                with pytest.raises(PublishTimeout):
                    await transport.publish(make(), timeout=0.3)
            server.resume()


async def test_after_jetstream_was_missing_it_can_be_tried_again(config, monkeypatch):
    transport = NatsTransport(config)
    with monkeypatch.context() as patched:
        patched.setattr(transport.api, "prefix", "$JS.nobody.API")
        with pytest.raises(JetStreamDisabled):
            await transport.open()
    async with transport:
        await healthy(transport)


async def test_a_wrong_password(nats_server):
    url = f"nats://app:wrong@{nats_server.host}:{nats_server.port}"
    with pytest.raises(NatsAuthenticationError):
        await NatsTransport(settings(url)).open()


async def test_health_over_the_life_of_a_server(make):
    async with NatsServer() as server:
        config = settings(server.url, reconnect_max_seconds=0.2)
        async with NatsTransport(config) as transport:
            health = await healthy(transport)
            assert health.latency is not None
            assert health.latency > 0
            server.pause()
            started = time.monotonic()
            health = await transport.health()
            assert time.monotonic() - started < 60
            assert not health.ok
            assert health.error is not None
            server.resume()
            server.kill()
            async with asyncio.timeout(60):
                while transport.connection.connected:
                    await asyncio.sleep(0.01)
            health = await transport.health()
            assert not health.ok
            assert f"{server.host}:{server.port}" in (health.error or "")
            assert "common:" not in (health.error or "")
            await server.restart()
            health = await healthy(transport)
            assert health.reconnects >= 1
            assert health.error is None


async def test_a_message_survives_the_death_of_the_server(make):
    async with NatsServer() as server, NatsTransport(settings(server.url)) as transport:
        await transport.api.request("STREAM.CREATE.CALL", {"name": "CALL", "subjects": ["evt.>"]})
        message = make()
        assert isinstance(await transport.publish(message), Receipt)
        server.kill()
        await server.restart()
        await healthy(transport)
        (found,) = await transport.browse("CALL")
        assert found.data == message.data


async def test_cancelled_while_opening_can_be_tried_again():
    async with NatsServer() as server:
        config = settings(server.url, connect_timeout_seconds=20)
        server.pause()
        transport = NatsTransport(config)
        task = asyncio.create_task(transport.open())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.resume()
        async with transport:
            await healthy(transport)


async def test_an_api_that_does_not_answer_has_a_time_limit():
    async with NatsServer() as server:
        config = settings(server.url, api_timeout_seconds=3)
        async with NatsTransport(config) as transport:
            server.pause()
            with pytest.raises(BrokerUnavailable, match="within 3 s"):
                await transport.browse("CALL")
            server.resume()
