"""NATS JetStream behind the port of `common.events.core`."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from common.errors import MessageBusError
from common.events.core._declarations import DeclareMode, Plan, StreamSpec
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
from common.events.nats import _browse as browsing
from common.events.nats import _declare as declaring
from common.events.nats._api import Api
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection
from common.events.nats._consumer import NatsConsumer, open_consumer
from common.events.nats._errors import JetStreamDisabled, NoResponders
from common.events.nats._pipeline import Pipeline

_HEALTH_SECONDS = 1.5


class NatsTransport(Transport):
    """Publishes to and consumes from NATS JetStream.

    Args:
        config: Where the servers are, and limits.

    Example:
        >>> transport = NatsTransport(NatsConfig(servers=("nats://localhost:4222",)))
        >>> transport.name, transport.connection.connected
        ('nats', False)
    """

    name: ClassVar[str] = "nats"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)

    def __init__(self, config: NatsConfig) -> None:
        self.config = config
        self.connection = Connection(config)
        """The connection, for what is not behind the port."""
        self.api = Api(self.connection, config)
        """JetStream's API, likewise."""
        self._pipeline = Pipeline(self.connection, self.api, config)
        self._consumers: set[NatsConsumer] = set()
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Opening twice is the same as once; it can be opened again after `close`.

        Raises:
            NatsAuthenticationError: The server refuses the credentials.
            NatsPermissionError: The user may not ask JetStream, or not hear the answers.
            JetStreamDisabled: The server or the account has no JetStream.
            BrokerUnavailable: The servers were not reached in time.
            TransportClosed: It was closed meanwhile.
        """
        async with self._opening:
            await self.connection.open()
            if self._pipeline.is_open:
                return
            try:
                await self._check_jetstream()
                await self._pipeline.open()
            except BaseException:
                await self.close()
                raise

    async def _check_jetstream(self) -> None:
        for pause in (0.1, 0.2, 0.4, None):
            try:
                await self.api.request("INFO")
            except NoResponders:
                if pause is None:
                    raise JetStreamDisabled(
                        "nobody answers for JetStream: enable it for the server and for the account"
                    ) from None
                await asyncio.sleep(pause)
            else:
                return

    async def close(self) -> None:
        """Close consumers, fail what is in flight with a result, disconnect. Idempotent."""
        try:
            await asyncio.gather(*(consumer.close() for consumer in tuple(self._consumers)))
        finally:
            try:
                await self._pipeline.close()
            finally:
                await self.connection.close()

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> Receipt:  # noqa: ASYNC109
        """Publish and wait for the acknowledgement: see `Transport.publish`."""
        return await self._pipeline.publish(message, timeout=timeout)

    async def publish_many(
        self,
        messages: Sequence[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Receipt | MessageBusError]:
        """Publish a batch: see `Transport.publish_many`.

        Of one key only one message at a time is on its way, so that nothing can change their
        order. When one fails so that publishing it again may help, the rest of its key is not sent.
        """
        return await self._pipeline.publish_many(messages, timeout=timeout)

    async def declare(self, streams: Sequence[StreamSpec], *, mode: DeclareMode) -> Plan:
        """Bring streams in line as far as the mode says: see `Transport.declare`."""
        return await declaring.declare(
            self.api, streams, mode=mode, horizon=self.config.timeout_seconds
        )

    async def plan(self, streams: Sequence[StreamSpec]) -> Plan:
        """Return what ``declare(…, mode="reconcile")`` would do: see `Transport.plan`."""
        return await declaring.plan(self.api, streams, horizon=self.config.timeout_seconds)

    async def consume(self, spec: ConsumerSpec) -> Consumer:
        """Make the durable consumer if need be, and start to pull: see `Transport.consume`."""
        self.connection.nc  # noqa: B018 - raises when it is not open
        consumer = await open_consumer(
            self.connection, self.api, spec, closed=self._consumers.discard
        )
        self._consumers.add(consumer)
        return consumer

    async def browse(
        self, stream: str, *, subject: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """Return stored messages in their order: see `Transport.browse`."""
        return await browsing.browse(self.api, stream, subject=subject, after=after, limit=limit)

    async def remove(self, stream: str, sequence: int) -> bool:
        """Delete a stored message; whether it was there."""
        return await browsing.remove(self.api, stream, sequence)

    async def health(self) -> TransportHealth:
        """Ask JetStream; never raises, and answers within two seconds."""
        connection = self.connection
        latency: float | None = None
        error: str | None = None
        try:
            if not connection.connected:
                raise connection.unavailable()
            started = asyncio.get_running_loop().time()
            await self.api.request("INFO", timeout=_HEALTH_SECONDS)
            latency = asyncio.get_running_loop().time() - started
        except MessageBusError as raised:
            error = raised.message
        return TransportHealth(
            ok=error is None,
            transport=self.name,
            latency=latency,
            reconnects=connection.reconnects,
            error=error,
        )
