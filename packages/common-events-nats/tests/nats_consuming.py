"""What tests of consuming share."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import SecretStr

from common.events.core._errors import BrokerUnavailable
from common.events.core._transport import ConsumerSpec, Delivery
from common.events.nats._api import Api, Json
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection, Reply
from common.events.nats._consumer import NatsConsumer, open_consumer
from common.events.nats._errors import NoResponders
from common.testing import NatsCluster, NatsServer

T = TypeVar("T")


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

        async def publish() -> Reply:
            # Nobody answers where a stream in a cluster is so new that it has no leader yet.
            return await self.connection.request(subject, data, timeout=30, headers=encoded)

        answer = await eventually(publish, but=NoResponders)
        found = json.loads(answer.data)
        assert "error" not in found, found
        return int(found["seq"])

    async def publish_many(self, count: int, *, prefix: str = "s", start: int = 0) -> None:
        for index in range(start, start + count):
            await self.publish(f"{prefix}.{index % 10}", b"%d" % index)

    async def consume(self, durable: str = "d", **settings: Any) -> NatsConsumer:
        wanted = spec(durable, **settings)
        consumer = await eventually(lambda: open_consumer(self.connection, self.api, wanted))
        self.consumers.append(consumer)
        return consumer

    async def info(self, durable: str = "d", stream: str = "S") -> Json:
        return await eventually(lambda: self.api.request(f"CONSUMER.INFO.{stream}.{durable}"))


def spec(durable: str = "d", **settings: Any) -> ConsumerSpec:
    given: dict[str, Any] = {"stream": "S", "subjects": ("s.>",), **settings}
    return ConsumerSpec(durable=durable, **given)


@asynccontextmanager
async def connected(url: str | list[str], **settings: Any) -> AsyncGenerator[Nats]:
    servers = tuple(SecretStr(each) for each in ([url] if isinstance(url, str) else url))
    given: dict[str, Any] = {
        "reconnect_max_seconds": 0.5,
        "connect_timeout_seconds": 30.0,
        **settings,
    }
    nats = Nats(NatsConfig(servers=servers, **given))
    await nats.connection.open()
    try:
        yield nats
    finally:
        for consumer in nats.consumers:
            await consumer.close()
        await nats.connection.close()


_surplus: WeakKeyDictionary[NatsConsumer, list[Delivery]] = WeakKeyDictionary()


async def receive(consumer: NatsConsumer, count: int, seconds: float = 60.0) -> list[Delivery]:
    """Return ``count`` messages, not settled; more that came along are for the next call."""
    found = _surplus.pop(consumer, [])
    async with asyncio.timeout(seconds):
        while len(found) < count:
            batch = await consumer.receive()
            assert batch, "the consumer has ended"
            found += batch
    _surplus[consumer] = found[count:]
    return found[:count]


async def take(consumer: NatsConsumer, count: int, seconds: float = 60.0) -> list[Delivery]:
    """Return at least ``count`` messages, each acknowledged as it comes."""
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            batch = _surplus.pop(consumer, None) or await consumer.receive()
            assert batch, "the consumer has ended"
            for delivery in batch:
                await delivery.ack()
            found += batch
    return found


async def nothing(consumer: NatsConsumer, seconds: float) -> None:
    """Check that nothing comes for a while."""
    batch: Sequence[Delivery] = _surplus.pop(consumer, [])
    try:
        async with asyncio.timeout(seconds):
            batch = batch or await consumer.receive()
    except TimeoutError:
        return
    raise AssertionError([(d.sequence, d.attempt) for d in batch])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait for something; that a leader is away, or an answer lost, is no answer."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(BrokerUnavailable):
                if await condition():
                    return
            await asyncio.sleep(0.02)


async def settled(nats: Nats, durable: str = "d", seconds: float = 60.0) -> None:
    """Wait until the broker has nothing of the consumer left, delivered or not."""

    async def done() -> bool:
        info = await nats.info(durable)
        return info["num_ack_pending"] == 0 and info["num_pending"] == 0

    await until(done, seconds)


async def eventually(
    make: Callable[[], Awaitable[T]], *, but: type[Exception] = BrokerUnavailable
) -> T:
    """Ask again while there is no answer: JetStream answers a moment after its server does.

    What is asked must do no harm when it is done twice.

    Args:
        make: Asks.
        but: Raised when there is no answer.
    """
    for _ in range(100):
        try:
            return await make()
        except but:
            await asyncio.sleep(0.05)
    return await make()


async def leader_of(nats: Nats, cluster: NatsCluster, durable: str = "d") -> NatsServer:
    """Return the server that leads a consumer."""
    names = {(await each.monitor("/varz"))["server_name"]: each for each in cluster.servers}
    async with asyncio.timeout(60):
        while (name := (await nats.info(durable))["cluster"].get("leader")) not in names:
            await asyncio.sleep(0.05)
    return names[name]
