"""A service's bus in its tests: the real bus and handlers, on an in-memory transport."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from common.context import new_id
from common.domain import Keyed, Message
from common.events.core._bus import EventBus
from common.events.core._bus_config import DEAD_LETTER_STREAM
from common.events.core._codec import Codec
from common.events.core._declarations import DEAD_LETTERS, StreamSpec
from common.events.core._decoder import Decoder
from common.events.core._memory import InMemoryTransport
from common.events.core._transport import Receipt, StoredMessage

M = TypeVar("M", bound=Message)

_MOST = 100_000


class BusUnderTest:
    """What `bus_under_test` yields.

    Attributes:
        bus: The bus.
        transport: The transport it has for the test; its ``broker`` has `advance`, and
            `InMemoryTransport.failing` lets publishing fail.
    """

    def __init__(self, bus: EventBus, transport: InMemoryTransport) -> None:
        self.bus = bus
        self.transport = transport

    async def receive(self, message: Message | Keyed[Any], *, id: str | None = None) -> Receipt:  # noqa: A002
        """Let a message come from outside: as if the service that may publish it had done so.

        Args:
            message: An event or a command of any stream.
            id: Message id; by default the message's idempotency key, or a new one.
        """
        content: Message = message.message if isinstance(message, Keyed) else message
        key: str | None = getattr(message, "idempotency_key", None)
        codec = Codec(source="/outside", registry=self.bus.registry)
        stream = self.bus.streams.stream_for(content)
        return await self.transport.publish(
            codec.outgoing(content, id=id or key or new_id(), stream=stream.name)
        )

    async def drained(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Wait until the handlers are done with everything, retries and what they sent included.

        Args:
            timeout: Most seconds, of real time; delays are skipped.

        Raises:
            TimeoutError: A handler still works; says whose.
            AssertionError: A subscription failed, and handles nothing any more.
        """
        await self.transport.drained(timeout=timeout)
        for each in (await self.bus.health()).subscriptions:
            if each.error:
                raise AssertionError(f"subscription {each.durable} failed: {each.error}")

    async def published(self, cls: type[M]) -> list[M]:
        """Return the messages of a class that were published or received so far, in order."""
        decoder = Decoder([cls], registry=self.bus.registry)
        stream = self.bus.streams.stream_for(cls)
        found: list[M] = []
        for stored in await self.transport.browse(
            stream.name, subject=cls.__message__.subject, limit=_MOST
        ):
            _, message = decoder.decode(stored.subject, stored.headers, stored.data)
            if isinstance(message, cls):
                found.append(message)
        return found

    async def dead_letters(self) -> Sequence[StoredMessage]:
        """Return the dead letters; their headers ``Dead-Letter-…`` say what went wrong."""
        return await self.transport.browse(DEAD_LETTERS, limit=_MOST)


@asynccontextmanager
async def bus_under_test(bus: EventBus) -> AsyncGenerator[BusUnderTest]:
    """Start a bus on an in-memory transport instead of its own, for the body of the ``async with``.

    Everything else is real: the envelope, validation, middleware, dependencies, retries (without
    their pauses), dead letters, inbox. All streams the bus knows are declared.

    Args:
        bus: The bus of a service, not started.

    Example:
        >>> import asyncio
        >>> from common.domain.calls import CallCompleted
        >>> from common.events.core import EventBus, InMemoryTransport
        >>> bus, seen = EventBus(InMemoryTransport(), source="/billing-service"), []
        >>> @bus.subscribe(CallCompleted, durable="billing")
        ... async def bill(event: CallCompleted) -> None:
        ...     seen.append(event.call_id)
        ...     assert len(seen) > 1, "fails once"
        >>> call = CallCompleted(
        ...     call_id="c-1", phone_number="+49301", duration_seconds=7, status="completed"
        ... )
        >>> async def main():
        ...     async with bus_under_test(bus) as test:
        ...         await test.receive(call)
        ...         await test.drained()
        ...         return await test.dead_letters()
        >>> asyncio.run(main()), seen
        ([], ['c-1', 'c-1'])
    """
    memory, real = InMemoryTransport(), bus.transport
    bus.use(memory, pauses=False)
    try:
        async with memory:
            specs = {stream.name: StreamSpec.of(stream) for stream in bus.streams}
            specs[DEAD_LETTERS] = DEAD_LETTER_STREAM
            specs |= {spec.name: spec for spec in bus.config.streams}
            await memory.declare(list(specs.values()), mode="create")
            try:
                await bus.start()
                yield BusUnderTest(bus, memory)
            finally:
                await bus.stop()
    finally:
        bus.use(real)
