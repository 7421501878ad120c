"""The server is paused, killed, cut off or away while messages are on their way."""

import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from nats_consuming import eventually
from nats_settings import settings

from common.errors import MessageBusError
from common.events.core._declarations import StreamSpec
from common.events.core._errors import PublishTimeout
from common.events.core._transport import Outgoing, Receipt
from common.events.nats._config import NatsConfig
from common.events.nats._transport import NatsTransport
from common.testing import FaultProxy, NatsCluster, NatsServer

CALLS = StreamSpec(name="CALL", subjects=("evt.call.>",), duplicate_window=timedelta(minutes=5))


def config(url: str | list[str], **changes: object) -> NatsConfig:
    values = {
        "ack_timeout_seconds": 0.3,
        "reconnect_max_seconds": 0.2,
        "timeout_seconds": 60,
        "api_timeout_seconds": 20,  # a cluster on a busy machine takes its time
    }
    return settings(url, **(values | changes))


async def stored(transport: NatsTransport) -> list[str]:
    """Ids in the order of the stream."""
    info = await eventually(lambda: transport.api.request("STREAM.INFO.CALL"))
    count = info["state"]["messages"]
    found = await transport.browse("CALL", limit=count + 1)
    assert len(found) == count
    return [message.headers["Nats-Msg-Id"] for message in found]


def acknowledged(messages: list[Outgoing], results: Sequence[object]) -> set[str]:
    pairs = zip(messages, results, strict=True)
    return {message.id for message, result in pairs if isinstance(result, Receipt)}


async def test_a_paused_server_stores_once_what_was_sent_many_times(make):
    async with NatsServer() as server, NatsTransport(config(server.url)) as transport:
        await transport.declare([CALLS], mode="create")
        messages = [make() for _ in range(200)]
        server.pause()
        task = asyncio.create_task(transport.publish_many(messages))
        async with asyncio.timeout(60):
            while (
                min(
                    (entry.attempts for entry in transport._pipeline._in_flight.values()), default=0
                )
                < 3
            ):
                await asyncio.sleep(0.02)
        server.resume()
        results = await task
        assert all(isinstance(each, Receipt) for each in results)
        assert await stored(transport) == [message.id for message in messages]


@pytest.mark.parametrize("seed", range(3))
async def test_kills_with_a_thousand_on_their_way(make, seed):
    chance = random.Random(seed)
    async with NatsServer() as server, NatsTransport(config(server.url)) as transport:
        await transport.declare([CALLS], mode="create")
        keys = [None, *map(str, range(500))]
        messages = [make(key=chance.choice(keys), data=bytes(256)) for _ in range(6_000)]
        alone = [make() for _ in range(300)]
        tasks = [asyncio.create_task(transport.publish(message)) for message in alone]
        batch = asyncio.create_task(transport.publish_many(messages))
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.01, 0.1))
            server.kill()
            await asyncio.sleep(chance.uniform(0, 0.2))
            await server.restart()
        results = [*await batch, *await asyncio.gather(*tasks, return_exceptions=True)]
        assert all(isinstance(each, Receipt | MessageBusError) for each in results)
        assert all(isinstance(each, Receipt) for each in results), "there was time for all"
        there = await stored(transport)
        assert max(Counter(there).values()) == 1
        assert acknowledged(messages + alone, results) == set(there)
        for key in keys[1:]:
            wanted = [message.id for message in messages if message.key == key]
            have = set(wanted)
            assert [each for each in there if each in have] == wanted


@pytest.mark.parametrize("seed", range(3))
async def test_connections_cut_and_bytes_dropped(make, seed):
    chance = random.Random(seed)
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        settings = config(proxy.url(server.url), ping_interval_seconds=0.3)
        async with NatsTransport(settings) as transport:
            await transport.declare([CALLS], mode="create")
            messages = [make(data=bytes(256)) for _ in range(5_000)]
            batch = asyncio.create_task(transport.publish_many(messages))
            for _ in range(4):
                await asyncio.sleep(chance.uniform(0, 0.05))
                match chance.choice(("cut", "close", "upstream", "downstream", "refuse")):
                    case "cut":
                        proxy.cut()
                    case "close":
                        proxy.cut(reset=False)
                    case "refuse":
                        proxy.refuse()
                        proxy.cut()
                    case direction:
                        proxy.drop(direction=direction)
                await asyncio.sleep(chance.uniform(0, 0.5))
                proxy.heal()
            results = await batch
            there = await stored(transport)
        assert all(isinstance(each, Receipt) for each in results)
        assert max(Counter(there).values()) == 1
        assert set(there) == {message.id for message in messages}


async def test_some_run_out_of_time_and_the_acknowledged_are_stored(make):
    async with NatsServer() as server:
        async with NatsTransport(config(server.url, max_in_flight=50)) as transport:
            await transport.declare([CALLS], mode="create")
            messages = [make() for _ in range(3_000)]
            batch = asyncio.create_task(transport.publish_many(messages, timeout=0.4))
            await asyncio.sleep(0.02)
            server.pause()
            await asyncio.sleep(1)
            server.resume()
            results = await batch
            there = await stored(transport)
        failed = [each for each in results if not isinstance(each, Receipt)]
        assert failed
        assert all(isinstance(each, PublishTimeout) for each in failed)
        assert acknowledged(messages, results) <= set(there)
        assert max(Counter(there).values()) == 1


async def busy() -> float:
    """Return how much of a core is used for a while."""
    used, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    await asyncio.sleep(0.7)
    now = resource.getrusage(resource.RUSAGE_SELF)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return seconds / (time.monotonic() - started)


async def test_a_server_that_dies_for_ever(make):
    """Every publish ends by its deadline, and waiting costs next to nothing."""
    async with NatsServer() as server, NatsTransport(config(server.url)) as transport:
        await transport.declare([CALLS], mode="create")
        server.kill()
        tasks = [asyncio.create_task(transport.publish(make(), timeout=4)) for _ in range(2_000)]
        while len(transport._pipeline._in_flight) < transport.config.max_in_flight:
            await asyncio.sleep(0.01)  # encoding and noticing is not what is measured
        assert min([await busy() for _ in range(3)]) < 0.3
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, PublishTimeout) for each in results)
        assert "no connection to NATS" in str(results[0])
        health = await transport.health()
        assert not health.ok
        assert health.error is not None
        assert "no connection" in health.error


async def test_a_slow_server_holds_publishers_back_and_stores_once(make):
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        limit = 200_000
        settings = config(proxy.url(server.url), max_in_flight_bytes=limit)
        async with NatsTransport(settings) as transport:
            await transport.declare([CALLS], mode="create")
            proxy.throttle(1_000_000, direction="upstream")
            messages = [make(data=bytes(20_000)) for _ in range(100)]
            batch = asyncio.create_task(transport.publish_many(messages))
            most = 0
            while not batch.done():
                on_their_way = transport._pipeline._in_flight.values()
                most = max(most, sum(len(entry.command) for entry in on_their_way))
                await asyncio.sleep(0.005)
            assert all(isinstance(each, Receipt) for each in await batch)
            assert 0 < most <= limit + 21_000
            proxy.heal()
            assert await stored(transport) == [message.id for message in messages]


async def test_nothing_is_sent_again_into_a_full_buffer(make):
    async with NatsServer() as server, NatsTransport(config(server.url)) as transport:
        await transport.declare([CALLS], mode="create")
        server.pause()
        messages = [make(data=bytes(500_000)) for _ in range(20)]
        batch = asyncio.create_task(transport.publish_many(messages))
        await asyncio.sleep(1.5)
        assert {entry.attempts for entry in transport._pipeline._in_flight.values()} == {1}
        server.resume()
        assert all(isinstance(each, Receipt) for each in await batch)


async def test_a_leader_that_dies(make):
    spec = replace(CALLS, replicas=3)
    async with NatsCluster() as cluster, NatsTransport(config(cluster.urls)) as transport:
        await transport.declare([spec], mode="create")
        leader = await cluster.leader("CALL", timeout=60)
        messages = [make(key=str(number % 400)) for number in range(4_000)]
        batch = asyncio.create_task(transport.publish_many(messages))
        await asyncio.sleep(0.1)
        leader.kill()
        results = await batch
        there = await stored(transport)
        assert all(isinstance(each, Receipt) for each in results)
        assert max(Counter(there).values()) == 1
        place = {each: number for number, each in enumerate(there)}
        for key in range(400):
            places = [place[message.id] for message in messages if message.key == str(key)]
            assert places == sorted(places)
