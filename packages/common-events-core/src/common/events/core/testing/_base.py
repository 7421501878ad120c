"""What all parts of the contract suite share."""

# ruff: noqa: S101 - part of tests

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from common.events.core._declarations import StreamSpec
from common.events.core._errors import BrokerUnavailable
from common.events.core._transport import (
    Capability,
    Consumer,
    ConsumerSpec,
    Delivery,
    Outgoing,
    Transport,
)

STREAM = "CONTRACT"
SPEC = StreamSpec(name=STREAM, subjects=("evt.contract.>",), storage="memory")
NewTransport = Callable[[], Transport]
OpenTransport = Callable[[], Awaitable[Transport]]

_numbers = itertools.count(1)


class ContractBase:
    """Fixtures and hooks of the suite.

    Attributes:
        capabilities: What the transport can do; tests of what it cannot are skipped.
        ack_wait: Seconds that the suite waits for an unsettled message where the transport has
            to wait; the unit of all its times. Longer than the machine may pause.
        patience: Seconds after which something that has to happen did not.
        duplicate_window: Seconds of the shortest duplicate window that a stream may have.
        max_payload: Bytes of the largest message the broker takes.
        replicas: Copies of the stream of the suite; ``None``: the broker's default.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)
    ack_wait: ClassVar[float] = 1.0
    patience: ClassVar[float] = 30.0
    duplicate_window: ClassVar[float] = 1.0
    max_payload: ClassVar[int] = 1_048_576
    replicas: ClassVar[int | None] = None
    _held = 0.0

    @property
    def long(self) -> float:
        """Seconds nobody waits: what comes sooner did not come because they were over."""
        return self.patience * 4

    @pytest.fixture
    def new_transport(self) -> NewTransport:
        """Return a function that constructs transports to one broker, without any stream."""
        raise NotImplementedError("override the fixture `new_transport` in the subclass")

    async def crash(self, transport: Transport) -> None:
        """Cut a transport off as if its process were killed: nothing may be handed back."""
        pytest.skip(f"{type(self).__name__} has no way to crash a {transport.name} transport")

    async def delete_stream(self, transport: Transport, stream: str) -> None:
        """Delete a stream behind the library's back."""
        pytest.skip(f"{type(self).__name__} cannot delete {stream} of {transport.name}")

    async def delete_consumer(self, transport: Transport, stream: str, durable: str) -> None:
        """Delete a durable consumer behind the library's back."""
        pytest.skip(f"{type(self).__name__} cannot delete {stream}/{durable} of {transport.name}")

    async def restart_broker(self) -> None:
        """Kill the broker and start it again."""
        pytest.skip(f"{type(self).__name__} has no way to restart the broker")

    def now(self) -> float:
        """Return the broker's time, in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let the broker's time pass."""
        await asyncio.sleep(seconds)

    async def arrival(self, consumer: Consumer, within: float) -> Sequence[Delivery] | None:
        """Return the next messages, or nothing if none came for some time.

        Args:
            consumer: From where.
            within: Seconds of the broker's time.
        """
        try:
            return await asyncio.wait_for(consumer.receive(), within)
        except TimeoutError:
            return None

    @pytest.fixture
    async def open_transport(self, new_transport: NewTransport) -> AsyncIterator[OpenTransport]:
        """Yield a function that opens one more transport, as one more process would."""
        async with AsyncExitStack() as stack:

            async def open_one() -> Transport:
                return await stack.enter_async_context(new_transport())

            yield open_one

    @pytest.fixture
    async def transport(self, open_transport: OpenTransport) -> Transport:
        """An open transport, and the stream of the suite."""
        transport = await open_transport()
        await transport.declare([replace(SPEC, replicas=self.replicas)], mode="create")
        return transport

    @pytest.fixture
    async def other(self, transport: Transport, open_transport: OpenTransport) -> Transport:
        """A second process at the same broker."""
        assert transport is not None
        return await open_transport()

    def needs(self, *capabilities: Capability) -> None:
        """Skip the test unless the transport has the capabilities."""
        for capability in capabilities:
            if capability not in self.capabilities:
                pytest.skip(f"this transport has no {capability}")

    def spec(self, durable: str = "worker", **changes: Any) -> ConsumerSpec:
        """Return a consumer whose messages do not come again for long."""
        settings: dict[str, Any] = {"subjects": ("evt.contract.>",), "ack_wait": self.long}
        return ConsumerSpec(durable=durable, stream=STREAM, **(settings | changes))

    @asynccontextmanager
    async def reading(self, transport: Transport, spec: ConsumerSpec) -> AsyncGenerator[Consumer]:
        """Consume for the body of the ``async with``."""
        consumer = await self.opened(transport, spec)
        try:
            yield consumer
        finally:
            await consumer.close()

    async def opened(self, transport: Transport, spec: ConsumerSpec) -> Consumer:
        """Open a consumer as a service does: a broker that elects a leader answers nobody."""
        end = self.now() + self.patience
        while True:
            try:
                return await transport.consume(spec)
            except BrokerUnavailable:
                if self.now() >= end:
                    raise
            await self.sleep(self.ack_wait / 10)

    async def receive(self, consumer: Consumer, count: int) -> list[Delivery]:
        """Return as many messages, as they come; what comes with the last is returned, too."""
        got: list[Delivery] = []
        while len(got) < count:
            batch = await self.arrival(consumer, self.patience)
            if not batch:
                why = "in time" if batch is None else "before the consumer ended"
                pytest.fail(f"of {count} messages {len(got)} came {why}: {numbers(got)}")
            got += batch
        return got

    async def receive_one(self, consumer: Consumer) -> Delivery:
        """Return the only message that is there."""
        first, *more = await self.receive(consumer, 1)
        # After a long pause of this machine it may have come again already.
        assert all(one.sequence == first.sequence for one in more), numbers([first, *more])
        return first

    async def ack(self, *deliveries: Delivery) -> None:
        """Acknowledge, and remember how long they were in hand."""
        for delivery in deliveries:
            await delivery.ack()
            self._held = max(self._held, time.monotonic() - delivery.received)

    async def nothing_comes(self, consumer: Consumer, *, waits: float = 0.5) -> None:
        """Check that no message comes for a while.

        Args:
            consumer: From where.
            waits: How long, in units of ``ack_wait``.
        """
        for _ in range(5):
            got = await self.arrival(consumer, waits * self.ack_wait)
            if not got:
                return
            if self._held < self.ack_wait / 2:
                break
            # The machine paused before it was settled, so it came again, and rightly so.
            await self.ack(*got)
        else:
            got = ()
        pytest.fail(f"nothing had to come, and this came: {numbers(got)}")

    async def drain(self, consumer: Consumer, *, waits: float = 1.5) -> list[Delivery]:
        """Acknowledge and return all that comes, until nothing came for a while."""
        got: list[Delivery] = []
        while batch := await self.arrival(consumer, waits * self.ack_wait):
            await self.ack(*batch)
            got += batch
        return got

    async def eventually(
        self, holds: Callable[[], Awaitable[bool]], *, earliest: float = 0.0
    ) -> None:
        """Ask until the answer is yes.

        Args:
            holds: The question.
            earliest: Seconds after which it may come to hold.
        """
        end = self.now() + earliest + self.patience
        while not await holds():
            assert self.now() < end, "it did not come to hold in time"
            await self.sleep(self.ack_wait / 10)


def message(data: str | bytes = b"", *, subject: str = "one", **changes: Any) -> Outgoing:
    """Return a message to the stream of the suite, with an id of its own."""
    body = data.encode() if isinstance(data, str) else data
    settings: dict[str, Any] = {"id": f"contract-{next(_numbers)}", "stream": STREAM}
    return Outgoing(f"evt.contract.{subject}", body, **(settings | changes))


def messages(count: int, **changes: Any) -> list[Outgoing]:
    """Return messages whose bodies are the numbers from 1."""
    return [message(str(number), **changes) for number in range(1, count + 1)]


def numbers(deliveries: Sequence[Any]) -> list[str]:
    """Return what the messages say."""
    return [delivery.data[:20].decode(errors="replace") for delivery in deliveries]


def counted(first: int, last: int) -> list[str]:
    """Return what the messages from one number to another say."""
    return [str(number) for number in range(first, last + 1)]
