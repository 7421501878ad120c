"""What tests of consuming share."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from common.events.core._transport import ConsumerSpec, Delivery
from common.events.nats._api import Api, Json
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection
from common.events.nats._consumer import NatsConsumer, open_consumer
from common.events.nats._errors import NoResponders


class Nats:
    """A connection with what tests do on it."""

    def __init__(self, config: NatsConfig) -> None:
        self.connection = Connection(config)
        self.api = Api(self.connection, config)
        self.consumers: list[NatsConsumer] = []

    async def stream(self, name: str = "S", **settings: Any) -> Json:
        config = {"name": name, "subjects": [f"{name.lower()}.>"], "storage": "file", **settings}
        return await eventually(lambda: self.api.request(f"STREAM.CREATE.{name}", config))

    async def publish(self, subject: str, data: bytes = b"", **headers: str) -> int:
        """Publish with the stream's acknowledgement; return the sequence."""
        encoded = b""
        if headers:
            lines = "".join(f"{name.replace('_', '-')}: {v}\r\n" for name, v in headers.items())
            encoded = f"NATS/1.0\r\n{lines}\r\n".encode()
        answer = await self.connection.request(subject, data, timeout=10, headers=encoded)
        found = json.loads(answer.data)
        assert "error" not in found, found
        return int(found["seq"])

    async def publish_many(self, count: int, *, prefix: str = "s", start: int = 0) -> None:
        for index in range(start, start + count):
            await self.publish(f"{prefix}.{index % 10}", b"%d" % index)

    async def consume(self, durable: str = "d", **settings: Any) -> NatsConsumer:
        consumer = await open_consumer(self.connection, self.api, spec(durable, **settings))
        self.consumers.append(consumer)
        return consumer

    async def info(self, durable: str = "d", stream: str = "S") -> Json:
        return await self.api.request(f"CONSUMER.INFO.{stream}.{durable}")


def spec(durable: str = "d", **settings: Any) -> ConsumerSpec:
    given: dict[str, Any] = {"stream": "S", "subjects": ("s.>",), **settings}
    return ConsumerSpec(durable=durable, **given)


@asynccontextmanager
async def connected(url: str | list[str], **settings: Any) -> AsyncGenerator[Nats]:
    servers = tuple(SecretStr(each) for each in ([url] if isinstance(url, str) else url))
    nats = Nats(NatsConfig(servers=servers, reconnect_max_seconds=0.5, **settings))
    await nats.connection.open()
    try:
        yield nats
    finally:
        for consumer in nats.consumers:
            await consumer.close()
        await nats.connection.close()


async def receive(consumer: NatsConsumer, count: int, seconds: float = 10.0) -> list[Delivery]:
    """Return ``count`` messages, not settled."""
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            batch = await consumer.receive()
            assert batch, "the consumer has ended"
            found += batch
    assert len(found) == count
    return found


async def take(consumer: NatsConsumer, count: int, seconds: float = 10.0) -> list[Delivery]:
    """Return at least ``count`` messages, each acknowledged as it comes."""
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            batch = await consumer.receive()
            assert batch, "the consumer has ended"
            for delivery in batch:
                await delivery.ack()
            found += batch
    return found


async def nothing(consumer: NatsConsumer, seconds: float) -> None:
    """Check that nothing comes for a while."""
    try:
        async with asyncio.timeout(seconds):
            batch = await consumer.receive()
    except TimeoutError:
        return
    raise AssertionError([(d.sequence, d.attempt) for d in batch])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def settled(nats: Nats, durable: str = "d", seconds: float = 15.0) -> None:
    """Wait until the broker has nothing of the consumer left, delivered or not."""

    async def done() -> bool:
        info = await nats.info(durable)
        return info["num_ack_pending"] == 0 and info["num_pending"] == 0

    await until(done, seconds)


async def eventually(make: Callable[[], Awaitable[Json]]) -> Json:
    """JetStream answers a moment after its server does."""
    for _ in range(100):
        try:
            return await make()
        except NoResponders:
            await asyncio.sleep(0.05)
    return await make()
