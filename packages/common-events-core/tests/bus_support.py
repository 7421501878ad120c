"""What the tests of the bus share: a vocabulary of its own, and a bus on memory."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from common.domain import Command, Event, Registry, Stream, Streams
from common.events.core import (
    BusConfig,
    Constant,
    Consumer,
    Delivery,
    EventBus,
    InMemoryTransport,
    Retry,
)

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("DOOR", ("door",))],
    services={"lamps": ["LAMP"], "doors": ["DOOR"]},
)


class Lit(Event, type="lamp.lit", key="lamp", registry=REGISTRY):
    lamp: str
    number: int = 0


class Dimmed(Event, type="lamp.dimmed", key="lamp", registry=REGISTRY):
    lamp: str


class Light(Command, type="lamp.light", registry=REGISTRY):
    lamp: str


class Opened(Event, type="door.opened", registry=REGISTRY):
    door: str


class Endless(InMemoryTransport):
    """Delivers bodies round after round, without a broker that keeps anything."""

    def __init__(self, bodies, count, batch=32):
        super().__init__()
        self.bodies, self.count, self.batch = bodies, count, batch
        self.settled = 0

    async def consume(self, spec):
        return _Rounds(self, spec)


class _Rounds(Consumer):
    def __init__(self, transport, spec):
        self.transport, self.spec = transport, spec
        self.sequence = 0
        self.stopped = asyncio.Event()

    async def receive(self):
        transport = self.transport
        await asyncio.sleep(0)
        if self.sequence == transport.count:
            await self.stopped.wait()
            return []
        found = []
        while len(found) < transport.batch and self.sequence < transport.count:
            self.sequence += 1
            body = transport.bodies[self.sequence % len(transport.bodies)]
            found.append(_Round(transport, self.spec, body, self.sequence))
        return found

    async def stop(self):
        self.stopped.set()

    async def close(self):
        self.stopped.set()


class _Round(Delivery):
    __slots__ = ("_settled", "_transport")

    def __init__(self, transport, spec, data, sequence):
        self.subject, self.stream, self.data = spec.subjects[0], spec.stream, data
        self.sequence, self.attempt, self.exhausted = sequence, 1, False
        self.received = time.monotonic()
        self._settled, self._transport = False, transport

    @property
    def headers(self):
        return MappingProxyType({})

    @property
    def timestamp(self):
        return datetime(2026, 1, 1, tzinfo=UTC)

    @property
    def settled(self):
        return self._settled

    async def ack(self):
        self._settled = True
        self._transport.settled += 1

    async def nak(self, delay=0.0):
        await self.ack()

    async def term(self, reason=""):
        await self.ack()

    async def in_progress(self): ...


AT_ONCE = Retry(attempts=3, backoff=Constant(0))


def make_bus(transport=None, *, service="lamps", **config) -> Any:  # of any transport
    return EventBus(
        transport or InMemoryTransport(),
        source=f"/{service}",
        service=service,
        registry=REGISTRY,
        streams=STREAMS,
        config=BusConfig(**config),
    )


@asynccontextmanager
async def running(bus, drain=5.0):
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop(drain=drain)


async def until(condition, seconds=20.0):
    """Wait for something that has to happen; fail when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def dead_letters(bus):
    return await bus.transport.browse("DEAD_LETTERS", limit=10_000)


shared = {name: value for name, value in globals().items() if not name.startswith("_")}
