"""Consumer and delivery of the in-memory transport."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from common.events.core._errors import ConsumerLost
from common.events.core._memory_broker import InMemoryBroker
from common.events.core._memory_durable import Durable, Reader, Unsettled
from common.events.core._transport import Consumer, ConsumerSpec, Delivery


class MemoryConsumer(Consumer):
    """One reader of a durable consumer."""

    def __init__(
        self,
        broker: InMemoryBroker,
        durable: Durable,
        spec: ConsumerSpec,
        forget: "Callable[[MemoryConsumer], None]",
    ) -> None:
        self.broker = broker
        self.durable = durable
        self.reader = Reader(spec.max_outstanding)
        self.open = True
        self._spec = spec
        self._forget = forget
        durable.readers.append(self.reader)
        broker.changed()

    async def receive(self) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        while self.reader.reading:
            if self.durable.deleted:
                self._make_anew()
            now = self.broker.now()
            items = self.durable.take(self.reader, now)
            if items:
                return [MemoryDelivery(self, item) for item in items]
            await self.broker.change(until=self.durable.next_due(now))
        return ()

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        self.reader.reading = False
        self.broker.changed()

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self.open:
            self.open = False
            self.durable.leave(self.reader, self.broker.now())
            self._forget(self)
            self.broker.changed()

    def crash(self) -> None:
        """End as a killed process does: nothing is handed back."""
        if self.open:
            self.open = False
            self.durable.crash(self.reader, self.broker.now())
            self.broker.changed()

    def _make_anew(self) -> None:
        stream = self.broker.streams.get(self._spec.stream)
        if stream is None:
            raise ConsumerLost(
                f"stream {self._spec.stream} was deleted, and with it the consumer "
                f"{self._spec.durable}: declare the stream again and restart"
            )
        self.durable = stream.durable(self._spec)
        self.reader = Reader(self._spec.max_outstanding)
        self.durable.readers.append(self.reader)


class MemoryDelivery(Delivery):
    """A message in the hand of one reader."""

    __slots__ = ("_consumer", "_durable", "_item", "_reader", "_settled")

    def __init__(self, consumer: MemoryConsumer, item: Unsettled) -> None:
        message = item.message
        self.subject = message.subject
        self.data = message.data
        self.stream = message.stream
        self.sequence = message.sequence
        self.attempt = item.attempt
        self.received = time.monotonic()
        self.exhausted = item.exhausted
        self._consumer = consumer
        self._durable = consumer.durable
        self._reader = consumer.reader
        self._item = item
        self._settled = False

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Delivery.headers`."""
        return self._item.message.headers

    @property
    def timestamp(self) -> datetime:
        """See `Delivery.timestamp`."""
        return self._item.message.timestamp

    @property
    def settled(self) -> bool:
        """See `Delivery.settled`."""
        return self._settled

    async def ack(self) -> None:
        """See `Delivery.ack`."""
        if self._settle():
            self._durable.settle(self._item)
            self._consumer.broker.changed()

    async def nak(self, delay: float = 0.0) -> None:
        """See `Delivery.nak`."""
        if self._settle():
            due = self._consumer.broker.now() + max(delay, 0.0)
            self._durable.hand_back(self._item, self._reader, due)
            self._consumer.broker.changed()

    async def term(self, reason: str = "") -> None:  # noqa: ARG002 - a broker would log it
        """See `Delivery.term`."""
        await self.ack()

    async def in_progress(self) -> None:
        """See `Delivery.in_progress`."""
        if not self._settled and self._consumer.open:
            self._durable.extend(self._item, self._reader, self._consumer.broker.now())

    def _settle(self) -> bool:
        """Whether this is the call that settles it."""
        if self._settled:
            return False
        self._settled = True
        return self._consumer.open
