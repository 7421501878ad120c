"""A bus from connecting to closing."""

import asyncio
import logging
import signal
import time
from collections.abc import Mapping, Sequence

from common.context import shielded
from common.domain import Registry, Streams
from common.events.core._bus_config import DEAD_LETTER_STREAM, BusConfig
from common.events.core._consuming import Consuming
from common.events.core._declarations import DEAD_LETTERS, StreamSpec
from common.events.core._decoder import Decoder
from common.events.core._errors import HandlerError
from common.events.core._health import BusHealth, SubscriptionHealth
from common.events.core._inject import Dependencies
from common.events.core._middleware import Middleware, chained
from common.events.core._middleware._context import restore_context
from common.events.core._middleware._deadline import limit_time
from common.events.core._middleware._failures import decide_failures
from common.events.core._middleware._inbox import once
from common.events.core._middleware._log import log_failures
from common.events.core._middleware._observe import observe_attempt
from common.events.core._signals import on_signals
from common.events.core._subscription import Subscription
from common.events.core._transport import Transport

logger = logging.getLogger("common.events")


class Lifecycle:
    """What `EventBus` is to start and stop; the methods are described there.

    Args:
        transport: The broker.
        service: Name of this service.
        registry: The message classes.
        streams: Which stream keeps a message.
        config: How the bus behaves.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        service: str,
        registry: Registry,
        streams: Streams,
        config: BusConfig,
    ) -> None:
        self.dependencies = Dependencies()
        self.subscriptions: dict[str, Subscription] = {}
        self.started = False
        self.connected = False
        self._transport = transport
        self._pauses = True
        self._service = service
        self._registry = registry
        self._streams = streams
        self._config = config
        self._consuming: list[Consuming] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._now = asyncio.Event()  # handlers are to be cancelled at once
        self._ended = asyncio.Event()  # run() is to stop
        self._failure: Exception | None = None

    def use(self, transport: Transport, *, pauses: bool) -> None:
        """Exchange the transport before it is connected."""
        self._transport = transport
        self._pauses = pauses

    def declarations(self) -> Mapping[str, StreamSpec]:
        """Return all streams that are declared at start, by name."""
        return {**self._own_streams(), **self._subscribed_streams()}

    def problems(self) -> list[str]:
        """Return what would keep it from starting, whatever the broker says."""
        found: list[str] = []
        for each in self.subscriptions.values():
            try:
                self.dependencies.check(each.handler.name, each.handler.wanted)
            except HandlerError as error:
                found.append(error.message)
            try:
                Decoder(each.types, registry=self._registry)
            except HandlerError as error:
                found.append(f"subscription {each.durable}: {error.message}")
        return found

    async def connect(self) -> None:
        """Connect and declare; idempotent."""
        self._settle_in()
        async with self._lock:
            try:
                await self._connect()
            except BaseException:
                await shielded(self._close(time.monotonic()))
                raise

    async def start(self) -> None:
        """Connect and consume; idempotent."""
        self._settle_in()
        async with self._lock:
            if self.started:
                return
            for subscription in self.subscriptions.values():
                handler = subscription.handler
                self.dependencies.check(handler.name, handler.wanted)
            self._now.clear()
            self._failure = None
            try:
                await self._connect()
                await self._declare(self._subscribed_streams())
                await self.dependencies.enter()
                for subscription in self.subscriptions.values():
                    consuming = self._consumer_of(subscription)
                    self._consuming.append(consuming)
                    await consuming.start()
            except BaseException:
                await shielded(self._close(time.monotonic()))
                raise
            self.started = True

    async def stop(self, *, drain: float | None) -> None:
        """Drain and close; idempotent."""
        self._settle_in()
        if self._stopping is None:
            seconds = self._config.drain if drain is None else drain
            self._stopping = asyncio.get_running_loop().create_task(self._stop(seconds))
        await shielded(self._stopping, self._now.set)

    async def run(self, *, drain: float | None, signals: Sequence[signal.Signals]) -> None:
        """Consume until a signal or a failure."""
        if not self.subscriptions:
            raise HandlerError(
                "nothing is subscribed, so there is nothing to run: use `async with bus` to "
                "publish only, or import the modules that subscribe"
            )
        self._settle_in()
        self._ended.clear()

        def signalled() -> None:
            if self._ended.is_set():
                logger.warning("second signal: handlers are cancelled")
                self._now.set()
            else:
                logger.info("signal: the bus stops")
                self._ended.set()

        with on_signals(tuple(signals), signalled):
            try:
                await self._start_unless_ended()
                if self._failure is None:  # started before, it may have failed before
                    await self._ended.wait()
            finally:
                await self.stop(drain=drain)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def health(self) -> BusHealth:
        """Ask the broker and the subscriptions."""
        transport = await self._transport.health()
        subscriptions = tuple(
            SubscriptionHealth(
                durable=each.subscription.durable,
                running=each.running,
                in_hand=each.in_hand,
                error=str(each.error) if each.error else None,
            )
            for each in self._consuming
        )
        failed = any(each.error for each in subscriptions)
        return BusHealth(transport.ok and not failed, transport, subscriptions)

    async def _start_unless_ended(self) -> None:
        """Start; give up when a signal comes before that is done."""
        loop = asyncio.get_running_loop()
        starting, ended = loop.create_task(self.start()), loop.create_task(self._ended.wait())
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()

    def _settle_in(self) -> None:
        """Make anew what belongs to one event loop, should another one run by now."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._stopping = loop, None
            self._lock, self._now, self._ended = asyncio.Lock(), asyncio.Event(), asyncio.Event()

    async def _connect(self) -> None:
        if self.connected:
            return
        self.connected = True
        await self._transport.open()
        await self._declare(self._own_streams())

    async def _declare(self, specs: Mapping[str, StreamSpec]) -> None:
        if specs and self._config.declare != "off":
            await self._transport.declare(list(specs.values()), mode=self._config.declare)

    def _own_streams(self) -> Mapping[str, StreamSpec]:
        owned = self._streams.services.get(self._service, ())
        specs = {name: StreamSpec.of(self._streams[name]) for name in owned}
        return specs | {spec.name: spec for spec in self._config.streams}

    def _subscribed_streams(self) -> Mapping[str, StreamSpec]:
        specs: dict[str, StreamSpec] = {}
        for subscription in self.subscriptions.values():
            name = subscription.spec(self._streams).stream
            specs[name] = StreamSpec.of(self._streams[name])
            if subscription.dead_letter:
                specs[DEAD_LETTERS] = DEAD_LETTER_STREAM
        return specs | {spec.name: spec for spec in self._config.streams if spec.name in specs}

    def _consumer_of(self, subscription: Subscription) -> Consuming:
        handler = subscription.handler
        middleware: list[Middleware] = [
            restore_context(self._service),
            observe_attempt(self._transport.name),
            log_failures,
            decide_failures(tuple(subscription.give_up_on), handler.on_error),
            *subscription.middleware,
        ]
        if subscription.timeout_seconds is not None:
            middleware.append(limit_time(subscription.timeout_seconds))
        if subscription.inbox is not None:
            middleware.append(once(subscription.inbox))
        dependencies = self.dependencies.resolve(handler.name, handler.wanted)
        return Consuming(
            subscription,
            subscription.spec(self._streams),
            self._transport,
            decoder=Decoder(subscription.types, registry=self._registry),
            chain=chained(middleware, handler.bound(dependencies)),
            on_failure=self._failed,
            pauses=self._pauses,
        )

    def _failed(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._ended.set()

    async def _stop(self, drain: float) -> None:
        try:
            async with self._lock:
                await self._close(time.monotonic() + drain)
        finally:
            self._stopping = None
            self._ended.set()  # whoever called, `run` has nothing left to wait for

    async def _close(self, deadline: float) -> None:
        self.started = False
        consuming, self._consuming = self._consuming, []
        try:
            if consuming:
                await asyncio.gather(*(each.stop(deadline, self._now) for each in consuming))
        finally:
            try:
                await self.dependencies.leave()
            finally:
                if self.connected:
                    self.connected = False
                    await self._transport.close()
