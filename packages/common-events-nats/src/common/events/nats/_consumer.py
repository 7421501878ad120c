"""An open subscription to a durable pull consumer."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from common.errors import AppError, MessageBusError
from common.events.core._errors import ConsumerLost, MissingStream
from common.events.core._transport import Consumer, ConsumerSpec, Delivery
from common.events.nats._advisories import Advisories, ExhaustedDelivery
from common.events.nats._api import Api, Json, patiently
from common.events.nats._connection import Connection
from common.events.nats._consumer_config import Origin, check_spec, check_usable, ensure
from common.events.nats._delivery import NatsDelivery
from common.events.nats._errors import ErrCode, JetStreamError
from common.events.nats._pin import Pin
from common.events.nats._pull import Pull

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0


class NatsConsumer(Consumer):
    """See `Consumer`; made by `open_consumer`."""

    def __init__(
        self,
        connection: Connection,
        api: Api,
        spec: ConsumerSpec,
        *,
        closed: "Callable[[NatsConsumer], None]" = lambda _: None,
    ) -> None:
        check_spec(spec)
        self.spec = spec
        self._connection = connection
        self._api = api
        self._on_closed = closed
        self._buffer: list[NatsDelivery | ExhaustedDelivery] = []
        self._arrived = asyncio.Event()
        self._error: AppError | None = None
        self._origin: Origin | None = None
        self._stopped = False
        self._stopping: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.pull = Pull(
            connection,
            api,
            stream=spec.stream,
            durable=spec.durable,
            limit=spec.max_outstanding,
            ack_wait=spec.ack_wait,
            ensure=self._ensure,
            take=self._take,
            lost=self._lost,
            pin=Pin(spec.ack_wait, self._take) if spec.ordered else None,
        )
        self._advisories: Advisories | None = None
        if spec.max_deliver is not None:
            self._advisories = Advisories(connection, api, spec, take=self._take, lost=self._lost)

    async def open(self) -> None:
        """Make the durable consumer if need be, and start to pull.

        Raises:
            MissingStream: There is no such stream.
            DeclarationConflict: The consumer exists with settings that cannot be changed.
            BrokerUnavailable: No answer.
        """
        try:
            stream = await self._stream()
            if self._advisories is not None:
                # Before the first message: what is exhausted is said only once.
                await self._advisories.start()
            info = await ensure(self._api, self.spec)
            self._origin = Origin(stream["created"], info["ack_floor"]["stream_seq"])
            await self.pull.start(info)
        except BaseException:
            await self.close()
            raise

    async def _stream(self) -> Json:
        try:
            return await self._api.request(f"STREAM.INFO.{self.spec.stream}")
        except MissingStream as error:
            raise MissingStream(
                f"consumer {self.spec.durable}: stream {self.spec.stream} does not exist: declare "
                "it, or let the bus create it"
            ) from error

    async def receive(self) -> Sequence[Delivery]:
        """See `Consumer.receive`."""
        while self._stopped or not self._buffer:
            if self._stopped:
                return ()
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        received, self._buffer = self._buffer, []
        return received

    async def stop(self) -> None:
        """See `Consumer.stop`."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _stop(self) -> None:
        self._stopped = True
        self._arrived.set()
        try:
            if self._advisories is None:
                await self.pull.stop()
            else:
                await asyncio.gather(self.pull.stop(), self._advisories.stop())
        finally:
            # Only now: while there were requests, the broker would have sent it here again.
            buffer, self._buffer = self._buffer, []
            for delivery in buffer:
                delivery.hand_back()

    async def _close(self) -> None:
        try:
            await self.stop()
        finally:
            self.pull.close()
            if self._advisories is not None:
                self._advisories.close()
            self._on_closed(self)
        try:
            if self._connection.connected:
                await self._connection.flush(timeout=_CLOSE_SECONDS)
        except MessageBusError as error:
            log.debug("Closing %s/%s: %s", self.spec.stream, self.spec.durable, error)

    def _take(self, delivery: NatsDelivery | ExhaustedDelivery) -> None:
        self._buffer.append(delivery)
        self._arrived.set()

    def _lost(self, error: AppError) -> None:
        self._error = error
        self._arrived.set()

    async def _ensure(self) -> Json:
        """Return the consumer's info; make it anew if somebody has deleted it."""
        try:
            return await patiently(self._look_up)
        except MissingStream as error:
            spec = self.spec
            raise ConsumerLost(
                f"stream {spec.stream} was deleted, and with it the consumer {spec.durable}: "
                "declare the stream again and restart",
                retryable=False,
            ) from error

    async def _look_up(self) -> Json:
        spec = self.spec
        try:
            info = await self._api.request(f"CONSUMER.INFO.{spec.stream}.{spec.durable}")
        except JetStreamError as error:
            if error.err_code != ErrCode.CONSUMER_NOT_FOUND:
                raise
        else:
            # Another release may have made it anew, for requests of another kind.
            check_usable(spec, info["config"])
            self._note(info)
            return info
        log.warning(
            "Consumer %s/%s was deleted; it is made anew from where it was last seen",
            spec.stream,
            spec.durable,
        )
        stream = await self._api.request(f"STREAM.INFO.{spec.stream}")
        info = await ensure(self._api, spec, self._origin)
        self._origin = Origin(stream["created"], info["ack_floor"]["stream_seq"])
        return info

    def _note(self, info: Json) -> None:
        if self._origin is not None:
            floor = int(info["ack_floor"]["stream_seq"])
            self._origin = Origin(self._origin.stream_created, floor)


async def open_consumer(
    connection: Connection,
    api: Api,
    spec: ConsumerSpec,
    *,
    closed: Callable[[NatsConsumer], None] = lambda _: None,
) -> NatsConsumer:
    """Open a subscription: see `Transport.consume`.

    Args:
        connection: Open.
        api: Of the connection.
        spec: What the subscription wants.
        closed: Called when the subscription is closed.
    """
    consumer = NatsConsumer(connection, api, spec, closed=closed)
    await consumer.open()
    return consumer
