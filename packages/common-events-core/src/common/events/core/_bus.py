"""The bus: what a service publishes through and is fed by."""

import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from common.domain import Command, Keyed, Message, Registry, Streams
from common.domain import registry as default_registry
from common.domain import streams as default_streams
from common.events.core._batch import Batcher
from common.events.core._bus_config import BusConfig
from common.events.core._codec import Codec
from common.events.core._declarations import StreamSpec
from common.events.core._errors import HandlerError
from common.events.core._handler import (
    EventHandler,
    HandlerInfo,
    Subscribable,
    class_handler,
    function_handler,
)
from common.events.core._health import BusHealth
from common.events.core._lifecycle import Lifecycle
from common.events.core._outcome import Outcome
from common.events.core._publish import Publisher
from common.events.core._results import Failed, Published, PublishReport
from common.events.core._subscription import Subscription, SubscriptionOptions, declared
from common.events.core._transport import Outgoing, Receipt, Transport

F = TypeVar("F", bound=Callable[..., Awaitable[Outcome | None]])

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class EventBus:
    """Publishes events and commands, and feeds them to handlers.

    To publish only, use ``async with bus``. A worker calls `run`. A service that both answers
    requests and handles messages calls `start` and `stop` at its own start and end.

    Args:
        transport: The broker.
        source: Who sends: CloudEvents' ``source``, a URI reference such as ``"/calls"``.
        service: Name by which ``streams`` knows the service; by default the end of ``source``.
        registry: The message classes.
        streams: Which stream keeps a message, and who may publish it.
        config: How it behaves.

    Example:
        >>> from common.domain.calls import CallCompleted
        >>> from common.events.core import EventBus, InMemoryTransport
        >>> bus = EventBus(InMemoryTransport(), source="/billing", service="billing-service")
        >>> @bus.subscribe(CallCompleted, durable="billing")
        ... async def bill(event: CallCompleted) -> None:
        ...     print(event.call_id, event.duration_seconds)
    """

    def __init__(
        self,
        transport: Transport,
        *,
        source: str,
        service: str | None = None,
        registry: Registry = default_registry,
        streams: Streams = default_streams,
        config: BusConfig | None = None,
    ) -> None:
        self.transport = transport
        self.config = config or BusConfig()
        self.service = service or source.rstrip("/").rpartition("/")[2]
        self.registry = registry
        self.streams = streams
        self._publisher = Publisher(
            transport,
            Codec(source=source, registry=registry, mode=self.config.mode),
            service=self.service,
            streams=streams,
            config=self.config.publish,
        )
        self._life = Lifecycle(
            transport,
            service=self.service,
            registry=registry,
            streams=streams,
            config=self.config,
        )

    def use(self, transport: Transport, *, pauses: bool = True) -> None:
        """Exchange the transport, such as for one that is configured only when the service starts.

        Args:
            transport: The broker.
            pauses: Whether failed messages wait before the next attempt; tests do without.

        Raises:
            HandlerError: The bus is connected.
        """
        if self._life.connected:
            raise HandlerError("exchange the transport before the bus is started, or once stopped")
        self.transport = transport
        self._publisher.use(transport)
        self._life.use(transport, pauses=pauses)

    # Publishing

    @overload
    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        on_error: Literal["raise"] = "raise",
    ) -> Receipt: ...
    @overload
    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        on_error: Literal["soft"],
    ) -> Published | Failed: ...
    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,  # noqa: A002 - the standard's word
        timeout: float | None = None,  # noqa: ASYNC109 - of one message, retries included
        on_error: Literal["raise", "soft"] = "raise",
    ) -> Receipt | Published | Failed:
        """Publish a message and wait until the broker has stored it.

        Args:
            message: An event of one of this service's streams, or any command.
            id: Message id, by which the broker knows repetitions; by default the message's
                idempotency key, or a new UUIDv7.
            timeout: Seconds for everything; by default that of the configuration. The deadline
                of the context shortens it.
            on_error: ``"soft"`` returns `Failed`, and counts it, where ``"raise"`` raises.

        Raises:
            PublishNotAllowedError: The message belongs to another service's stream.
            PublishError: The broker has not acknowledged it (`PublishTimeout`,
                `PublishRejected` and others).
            TransportClosed: The bus is not open.
        """
        if on_error == "soft":
            return await self._publisher.publish(message, id=id, timeout=timeout, on_error="soft")
        return await self._publisher.publish(message, id=id, timeout=timeout)

    async def publish_many(
        self,
        messages: Iterable[Message | Keyed[Any]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - of each message
    ) -> PublishReport:
        """Publish messages through the transport's pipeline; one result for each, in order.

        Args:
            messages: The messages.
            timeout: Seconds for each of them.
        """
        return await self._publisher.publish_many(messages, timeout=timeout)

    async def send(
        self,
        command: Command | Keyed[Any],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Receipt:
        """Send a command; see `publish`.

        Args:
            command: The command, or a `common.domain.Keyed` one.
            idempotency_key: Becomes the message id: within the stream's duplicate window a
                second sending is not stored.
            timeout: Seconds for everything.
        """
        return await self._publisher.publish(command, id=idempotency_key, timeout=timeout)

    def batcher(
        self,
        *,
        batch_size: int | None = None,
        flush_interval: float | None = None,
        max_buffered: int | None = None,
    ) -> Batcher:
        """Return an async context manager that publishes what is added to it in batches.

        Args:
            batch_size: Messages that are sent together.
            flush_interval: Seconds after which fewer are sent.
            max_buffered: Most messages without a result; who adds more, waits.

        Raises:
            ValueError: One of these is out of range; see `PublishConfig`.
        """
        return self._publisher.batcher(
            batch_size=batch_size, flush_interval=flush_interval, max_buffered=max_buffered
        )

    def encode(self, message: Message | Keyed[Any], *, id: str | None = None) -> Outgoing:  # noqa: A002
        """Return what `publish` would hand to the transport, for an outbox to store.

        Raises:
            PublishNotAllowedError: The message belongs to another service's stream.
        """
        return self._publisher.encode(message, id=id)

    # Declaring

    def provide(
        self, value: object, *, as_: object = None, name: str | None = None, enter: bool = True
    ) -> None:
        """Make something available to handlers; see `Inject`.

        Args:
            value: The dependency. An async context manager is entered when the bus starts and
                left when it has stopped, and what it yields is handed to handlers.
            as_: The type by which handlers ask for it; by default its class.
            name: The name by which handlers ask for it, in place of a type.
            enter: Pass False for an async context manager which you enter and leave yourself.

        Raises:
            HandlerError: The type or name is taken, or the bus is started.
        """
        self._life.dependencies.provide(value, as_=as_, name=name, enter=enter)

    def subscribe(
        self, *types: Subscribable, durable: str, **options: Unpack[SubscriptionOptions]
    ) -> Callable[[F], F]:
        """Subscribe a function: a decorator that leaves it as it is.

        Args:
            *types: Message classes of one stream, or unions or lists of them; by default those
                in the annotation of the function's first parameter.
            durable: Name of the durable consumer.
            **options: See `Subscription`.

        Raises:
            HandlerError: Something about the function or the options is wrong; says what to do.
        """

        def decorate(function: F) -> F:
            self._subscribe(function_handler(function), types, durable, options)
            return function

        return decorate

    def add(
        self,
        handler: EventHandler[Any],
        *types: Subscribable,
        durable: str,
        **options: Unpack[SubscriptionOptions],
    ) -> None:
        """Subscribe a class-based handler; see `subscribe`.

        Raises:
            HandlerError: Something about the handler or the options is wrong.
        """
        self._subscribe(class_handler(handler), types, durable, options)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What is subscribed, in the order of declaration."""
        return tuple(self._life.subscriptions.values())

    @property
    def declarations(self) -> tuple[StreamSpec, ...]:
        """The streams that `start` declares.

        Those this service publishes to or is subscribed to, that of dead letters where there may
        be any, and those of the configuration.
        """
        return tuple(self._life.declarations().values())

    def check(self) -> list[str]:
        """Return what would keep the bus from starting, whatever the broker says; asks nobody.

        A test of a service may assert that there is nothing.
        """
        return self._life.problems()

    def _subscribe(
        self,
        handler: HandlerInfo,
        types: tuple[Subscribable, ...],
        durable: str,
        options: SubscriptionOptions,
    ) -> None:
        if self._life.started:
            raise HandlerError(f"{handler.name}: subscribe before the bus is started")
        subscription = declared(handler, types, durable, options)
        subscription.spec(self.streams)  # wrong streams are told here and now
        taken = self._life.subscriptions.get(durable)
        if taken is not None:
            raise HandlerError(
                f"{handler.name} and {taken.handler.name} both have durable={durable!r}: they "
                "would take each other's messages; give each a name of its own"
            )
        self._life.subscriptions[durable] = subscription

    # Life

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def connect(self) -> None:
        """Connect, to publish only, and declare this service's streams. Idempotent.

        Raises:
            BrokerUnavailable: The broker was not reached in time.
            DeclarationConflict: A stream is not as declared.
        """
        await self._life.connect()

    async def start(self) -> None:
        """Connect and start to handle messages. Idempotent; `stop` undoes it.

        A subscription that fails later on is reported by `health`; `run` raises its error.

        Raises:
            HandlerError: A handler wants a dependency that is not provided; nothing was started.
            BrokerUnavailable: The broker was not reached in time.
            MissingStream: A stream does not exist.
            DeclarationConflict: A stream or consumer is not as declared.
        """
        await self._life.start()

    async def stop(self, *, drain: float | None = None) -> None:
        """Stop to take messages, let handlers finish, hand back the rest, disconnect. Idempotent.

        When cancelled meanwhile, handlers are cancelled at once; everything is closed even then.

        Args:
            drain: Seconds handlers have to finish; by default the configuration's. They are then
                cancelled, and their messages handed back.
        """
        await self._life.stop(drain=drain)

    async def run(
        self, *, drain: float | None = None, signals: Sequence[signal.Signals] = STOP_SIGNALS
    ) -> None:
        """Handle messages until a signal comes or a subscription fails.

        The first signal stops the bus as `stop` does, a second one cancels the handlers at once.
        What comes after is handled as before `run`: by default it ends the process.

        Args:
            drain: Seconds handlers have to finish; by default the configuration's.
            signals: The signals, by default SIGTERM and SIGINT.

        Raises:
            MessageBusError: A subscription cannot go on (`ConsumerLost` and others). The others
                have finished as for a signal.
            UndecodableMessage: A subscription with ``unknown="fail"`` got an unknown type.
            HandlerError: Nothing is subscribed; see also `start`.
        """
        await self._life.run(drain=drain, signals=signals)

    async def health(self) -> BusHealth:
        """Ask the broker and the subscriptions; never raises, and answers within two seconds."""
        return await self._life.health()
