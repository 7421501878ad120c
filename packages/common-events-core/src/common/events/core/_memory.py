"""The in-memory transport: what a broker does, without a broker."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from common.context import remaining
from common.errors import MessageBusError
from common.events.core._declarations import DeclareMode, Plan, StreamSpec
from common.events.core._errors import DeclarationConflict, PublishTimeout, TransportClosed
from common.events.core._memory_broker import InMemoryBroker
from common.events.core._memory_consumer import MemoryConsumer
from common.events.core._memory_declare import apply, make_plan
from common.events.core._subjects import matches, merged
from common.events.core._transport import (
    Capability,
    Consumer,
    ConsumerSpec,
    Outgoing,
    Receipt,
    StoredMessage,
    Transport,
    TransportHealth,
)


class InMemoryTransport(Transport):
    """A transport within this process, for tests and small tools; it forgets all at its end.

    It keeps the contract as JetStream does: duplicate window, redelivery after ``ack_wait``,
    delays, ``max_deliver``, shared durables, ordered consumers. Like a broker it has to be told
    of streams: a bus with ``declare="create"`` does that.

    Args:
        broker: Shared by several transports that stand for several processes; by default each
            transport has its own.

    Example:
        >>> async def main():
        ...     async with InMemoryTransport() as transport:
        ...         await transport.declare(
        ...             [StreamSpec(name="CALL", subjects=("evt.call.>",))], mode="create"
        ...         )
        ...         sent = Outgoing("evt.call.completed", b"{}", id="1", stream="CALL")
        ...         return [await transport.publish(sent) for _ in range(2)]
        >>> [receipt.duplicate for receipt in asyncio.run(main())]
        [False, True]
    """

    name: ClassVar[str] = "memory"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {Capability.DURABLE}

    def __init__(self, broker: InMemoryBroker | None = None) -> None:
        self.broker = broker or InMemoryBroker()
        self._open = False
        self._consumers: list[MemoryConsumer] = []
        self._faults: list[tuple[str, MessageBusError]] = []

    async def open(self) -> None:
        """See `Transport.open`."""
        self._open = True

    async def close(self) -> None:
        """See `Transport.close`."""
        self._open = False
        for consumer in list(self._consumers):
            await consumer.close()

    async def publish(
        self,
        message: Outgoing,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Receipt:
        """See `Transport.publish`."""
        self._check_open()
        await asyncio.sleep(0)  # on its way to the broker
        self._check_open(message.id)
        left = remaining()
        if (timeout is not None and timeout <= 0) or (left is not None and left <= 0):
            raise PublishTimeout("no time was left to publish", message_id=message.id)
        for subject, error in self._faults:
            if matches(subject, message.subject):
                raise error
        receipt = self.broker.store(message)
        await asyncio.sleep(0)  # on its way back
        return receipt

    async def publish_many(
        self,
        messages: Sequence[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Receipt | MessageBusError]:
        """See `Transport.publish_many`."""
        self._check_open()
        results: list[Receipt | MessageBusError] = []
        for message in messages:
            try:
                results.append(await self.publish(message, timeout=timeout))
            except MessageBusError as error:
                results.append(error)
        return results

    async def declare(self, streams: Sequence[StreamSpec], *, mode: DeclareMode) -> Plan:
        """See `Transport.declare`."""
        self._check_open()
        return apply(self.broker, streams, mode)

    async def plan(self, streams: Sequence[StreamSpec]) -> Plan:
        """See `Transport.plan`."""
        self._check_open()
        return make_plan(self.broker, streams)

    async def consume(self, spec: ConsumerSpec) -> Consumer:
        """See `Transport.consume`."""
        self._check_open()
        durable = self.broker.stream(spec.stream).durable(spec)
        differences = [
            f"{name}: {getattr(durable.spec, name)}, wanted {getattr(spec, name)} "
            "(cannot be changed)"
            for name in ("deliver", "ordered")
            if getattr(durable.spec, name) != getattr(spec, name)
        ]
        if differences:
            raise DeclarationConflict(
                f"consumer {spec.stream}/{spec.durable} exists with other settings: delete it, "
                "or give the subscription another name",
                differences=differences,
            )
        durable.spec = replace(spec, subjects=merged(durable.spec.subjects, spec.subjects))
        consumer = MemoryConsumer(self.broker, durable, spec, self._consumers.remove)
        self._consumers.append(consumer)
        return consumer

    async def browse(
        self, stream: str, *, subject: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """See `Transport.browse`."""
        self._check_open()
        found = [
            message
            for message in self.broker.stream(stream).messages.values()
            if message.sequence > after and (subject is None or matches(subject, message.subject))
        ]
        return found[:limit]

    async def remove(self, stream: str, sequence: int) -> bool:
        """See `Transport.remove`."""
        self._check_open()
        removed = self.broker.stream(stream).remove(sequence)
        self.broker.changed()
        return removed

    async def health(self) -> TransportHealth:
        """See `Transport.health`."""
        error = None if self._open else "closed"
        return TransportHealth(self._open, self.name, 0.0 if self._open else None, error=error)

    async def drained(
        self,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109
        skip_delays: bool = True,
    ) -> None:
        """Wait until every open consumer has settled all that there is for it.

        Messages that handlers publish meanwhile are waited for, too. Time that would only be
        waited for is skipped: a retry after five minutes happens at once.

        Args:
            timeout: Most seconds, of real time.
            skip_delays: Whether to skip time; otherwise delays pass as they are.

        Raises:
            TimeoutError: Something is still not settled; the message says what.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            busy, due = self._work()
            if not busy and due is None:
                return
            if loop.time() >= end:
                raise TimeoutError(f"not settled within {timeout} s: {', '.join(self._left())}")
            now = self.broker.now()
            if not busy and due is not None and skip_delays:
                self.broker.advance(max(due - now, 0) + 0.001)
                await asyncio.sleep(0)
            else:
                await self.broker.change(until=now + end - loop.time())

    @contextmanager
    def failing(self, error: MessageBusError, *, subject: str = ">") -> Generator[None]:
        """Let publishing fail for the body of the ``with``.

        Args:
            error: What `publish` raises.
            subject: For which subjects; ``>`` and ``*`` are allowed.
        """
        fault = (subject, error)
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)

    def crash(self) -> None:
        """End as a killed process does: nothing is handed back, and nothing answers any more."""
        self._open = False
        for consumer in self._consumers:
            consumer.crash()
        self._consumers.clear()

    def _check_open(self, message_id: str | None = None) -> None:
        if not self._open:
            text = "the transport is closed" + (" since" if message_id else "")
            raise TransportClosed(f"{text}: enter it with `async with`, or run the bus")

    def _work(self) -> tuple[bool, float | None]:
        """Whether something is in hand or can be delivered now; else when something will be."""
        now = self.broker.now()
        dues: list[float] = []
        for durable in self.broker.durables():
            if any(reader.reading or reader.held for reader in durable.readers):
                due = durable.next_due(now)
                if durable.busy(now):
                    return True, None
                dues += [] if due is None else [due]
        return False, min(dues, default=None)

    def _left(self) -> list[str]:
        return [
            f"{durable.spec.stream}/{durable.spec.durable}: {len(durable.unsettled)} delivered and "
            f"not settled{', and more to come' if durable.backlog() else ''}"
            for durable in self.broker.durables()
            if durable.unsettled or durable.backlog()
        ]
