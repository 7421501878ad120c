"""Consuming with acknowledgements over NATS JetStream against raw nats-py and FastStream."""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import nats
from faststream.nats import NatsBroker, PullSub
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic import BaseModel

from benchmarks._harness import Bar, Group
from benchmarks.events_nats import SUBJECT, events
from common.domain import streams
from common.domain.notification import EmailFailed
from common.events.core import BusConfig, ConsumerSpec, Decoder, EventBus, StreamSpec
from common.events.nats import NatsConfig, NatsTransport
from common.testing import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NUMBER = 3_000
ROUNDS = 7
BATCH = 256


class Envelope(BaseModel):
    """What FastStream validates: the parts of the envelope which ours validates, too."""

    specversion: str
    id: str
    type: str
    source: str
    time: str
    dataschema: str
    data: EmailFailed


async def groups() -> AsyncIterator[Group]:
    """One stream for all; every contender has a durable of its own."""
    logging.getLogger("faststream").setLevel(logging.ERROR)
    async with NatsServer() as server:
        config = NatsConfig.model_validate({"servers": server.url})
        broker = NatsBroker(server.url, logger=None)
        gate = Gate()

        async def handle(_: Envelope) -> None:
            await gate.passed()

        subscribed = broker.subscriber(
            SUBJECT,
            stream="NOTIFICATION",
            durable="faststream",
            pull_sub=PullSub(batch_size=BATCH),
        )
        subscribed(handle)

        async with NatsTransport(config) as transport:
            await fill(transport)
            nc = await nats.connect(server.url)
            worker = bus_of(NatsTransport(config))
            yield group_of(Contenders(transport, nc, worker), broker, gate)
            await worker.stop(drain=0)
            await broker.stop()
            await nc.close()


class Gate:
    """Lets a given number of messages through."""

    def __init__(self) -> None:
        self.left = 0
        self.open = asyncio.Event()
        self.done = asyncio.Event()

    async def passed(self) -> None:
        """Count a message, once there is a round in which it counts."""
        while not self.left:
            await self.open.wait()
        self.left -= 1
        if not self.left:
            self.open.clear()
            self.done.set()

    async def let(self, number: int) -> None:
        """Run a round."""
        self.left = number
        self.done.clear()
        self.open.set()
        await self.done.wait()


def bus_of(transport) -> EventBus:
    return EventBus(
        transport,
        source="/bench",
        service="notification-service",
        streams=streams,
        config=BusConfig(declare="off"),
    )


async def fill(transport) -> None:
    await transport.declare(
        [
            StreamSpec(
                name="NOTIFICATION",
                subjects=("evt.notification.>",),
                max_messages_per_subject=None,
            )
        ],
        mode="create",
    )
    bus = bus_of(transport)
    some = events()
    for _ in range((ROUNDS + 2) * NUMBER // len(some) + 1):
        report = await bus.publish_many(some)
        report.raise_for_failures()


class Contenders:
    """What is measured; each takes the number of messages."""

    def __init__(self, transport, nc, worker) -> None:
        self.transport = transport
        self.nc = nc
        self.js = nc.jetstream()
        self.worker = worker
        self.gate = Gate()
        self.decoder = Decoder([EmailFailed])
        self.pulled = None

    async def ours(self, durable, number, handle):
        spec = ConsumerSpec(
            durable=durable, stream="NOTIFICATION", subjects=(SUBJECT,), max_outstanding=BATCH
        )
        consumer = await self.transport.consume(spec)
        while number > 0:
            for delivery in await consumer.receive():
                handle(delivery)
                await delivery.ack()
                number -= 1
                if not number:
                    break
        await consumer.close()

    async def bytes_only(self, number):
        await self.ours("bytes", number, lambda _: None)

    async def typed(self, number):
        await self.ours("typed", number, self.decode)

    def decode(self, delivery):
        _, event = self.decoder.decode(delivery.subject, lambda: delivery.headers, delivery.data)
        assert isinstance(event, EmailFailed)

    async def bus(self, number):
        if not self.worker.subscriptions:
            options = {"durable": "bus", "concurrency": 32, "per_key": False}
            self.worker.subscribe(EmailFailed, **options)(self.handle)
            await self.worker.start()
        await self.gate.let(number)

    async def handle(self, _: EmailFailed) -> None:
        await self.gate.passed()

    async def fetch(self, number):
        if self.pulled is None:
            self.pulled = await self.js.pull_subscribe(
                SUBJECT, durable="fetch", stream="NOTIFICATION"
            )
        while number > 0:
            for message in await self.pulled.fetch(min(500, number), timeout=5):
                await message.ack()
                number -= 1

    async def raw(self, number):
        """Overlapping pull requests into a callback, as fast as nats-py goes."""
        nc, left, asked, done = self.nc, number, 0, asyncio.Event()
        inbox = nc.new_inbox()
        config = ConsumerConfig(
            durable_name="raw", filter_subject=SUBJECT, ack_policy=AckPolicy.EXPLICIT
        )
        await self.js.add_consumer("NOTIFICATION", config)

        async def ask():
            nonlocal asked
            count = min(BATCH, number - asked)
            asked += count
            request = json.dumps({"batch": count, "expires": 30_000_000_000}).encode()
            if count:
                await nc.publish("$JS.API.CONSUMER.MSG.NEXT.NOTIFICATION.raw", request, reply=inbox)

        async def receive(message):
            nonlocal left
            await nc.publish(message.reply, b"+ACK")
            left -= 1
            if not left:
                done.set()
            elif not left % BATCH:
                await ask()

        subscription = await nc.subscribe(inbox, cb=receive)
        await ask()
        await ask()
        await done.wait()
        await subscription.unsubscribe()


def group_of(contenders: Contenders, broker, gate: Gate) -> Group:
    async def faststream(number):
        if not broker.running:
            await broker.start()
        await gate.let(number)

    bars = []
    for contender in ("common, typed", "common, bus"):
        bars += [
            Bar(contender=contender, rate=8_000),
            Bar(contender=contender, against="nats-py fetch", ratio=1),
            Bar(contender=contender, against="FastStream", ratio=1 / 4),
            Bar(contender=contender, against="raw pipeline", extra=15e-6, of="cpu"),
        ]
    return Group(
        name="consume with ack, 256 B",
        contenders={
            "raw pipeline": contenders.raw,
            "common, bytes": contenders.bytes_only,
            "common, typed": contenders.typed,
            "common, bus": contenders.bus,
            "nats-py fetch": contenders.fetch,
            "FastStream": faststream,
        },
        number=NUMBER,
        rounds=ROUNDS,
        bars=bars,
    )
