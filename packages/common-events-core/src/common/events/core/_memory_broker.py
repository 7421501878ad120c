"""The broker behind `InMemoryTransport`: streams, and a clock that can be moved forward."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from common.events.core._errors import MessageTooLarge, MissingStream
from common.events.core._memory_durable import Durable
from common.events.core._memory_stream import MemoryStream, find_stream
from common.events.core._transport import Outgoing, Receipt


class InMemoryConfig(BaseModel):
    """Bounds of an `InMemoryBroker`.

    Args:
        max_messages: Most messages kept in one stream. When it is full, the oldest message goes
            if every consumer has settled it, and otherwise publishing is refused.
        max_payload: Most bytes of one message; NATS' default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_messages: int = Field(default=100_000, gt=0)
    max_payload: int = Field(default=1_048_576, gt=0)


class InMemoryBroker:
    """What several `InMemoryTransport` share, as the processes of a system share a server.

    Time passes as it does outside, and `advance` skips some of it: retries that were put off,
    ``ack_wait`` and the duplicate window need no sleeping in tests.

    Args:
        config: Bounds.
    """

    def __init__(self, config: InMemoryConfig | None = None) -> None:
        self.config = config or InMemoryConfig()
        self.streams: dict[str, MemoryStream] = {}
        self._skipped = 0.0
        self._waiters: set[asyncio.Future[None]] = set()

    def now(self) -> float:
        """Return the broker's time, in seconds."""
        return time.monotonic() + self._skipped

    def timestamp(self) -> datetime:
        """Return the broker's time of day."""
        return datetime.now(UTC) + timedelta(seconds=self._skipped)

    def advance(self, seconds: float) -> None:
        """Let time pass at once.

        Args:
            seconds: How much of it.
        """
        if seconds < 0:
            raise ValueError("time goes forward only: give seconds of 0 or more")
        self._skipped += seconds
        self.changed()

    def changed(self) -> None:
        """Wake all who wait for something to happen."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def change(self, until: float | None = None) -> None:
        """Wait until something happens, or until a time.

        Args:
            until: In seconds, as `now` has it.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = None
        if until is not None:
            # A little later, so that it is due by then whatever the clocks' rounding.
            timer = loop.call_later(max(until - self.now(), 0) + 0.001, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def stream(self, name: str) -> MemoryStream:
        """Return a stream.

        Raises:
            MissingStream: There is none of this name.
        """
        try:
            stream = self.streams[name]
        except KeyError:
            raise MissingStream(
                f"there is no stream {name}: declare it with mode 'create' or 'reconcile'"
            ) from None
        stream.expire(self.timestamp())
        return stream

    def store(self, message: Outgoing) -> Receipt:
        """Keep a message.

        Raises:
            MessageTooLarge: It is larger than ``max_payload``.
            MissingStream: Its stream does not exist, or takes other subjects.
            PublishRejected: The stream is full.
        """
        size, limit = len(message.data), self.config.max_payload
        if size > limit:
            raise MessageTooLarge(
                f"a message of {size} bytes on {message.subject} exceeds the limit of {limit}: "
                "send a reference to what is large",
                size=size,
                limit=limit,
            )
        stream = self.stream(message.stream)
        if not stream.takes(message.subject):
            other = find_stream(self.streams.values(), message.subject)
            raise MissingStream(
                f"stream {message.stream} does not take {message.subject}"
                + (f"; {other.spec.name} does" if other else ": add it to the stream's subjects")
            )
        receipt = stream.store(message, now=self.now(), timestamp=self.timestamp())
        self.changed()
        return receipt

    def delete_stream(self, name: str) -> None:
        """Delete a stream with its messages and consumers, as an operator would."""
        stream = self.stream(name)
        del self.streams[name]
        for durable in stream.durables.values():
            durable.deleted = True
        self.changed()

    def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete a durable consumer, as an operator would."""
        self.stream(stream).durables.pop(durable).deleted = True
        self.changed()

    def durables(self) -> Iterator[Durable]:
        """Yield every durable consumer."""
        for stream in self.streams.values():
            yield from stream.durables.values()


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
