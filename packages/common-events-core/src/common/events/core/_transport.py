"""The port between the bus and a broker: what a transport implements."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from common.events.core._declarations import DeclareMode, Plan, StreamSpec

if TYPE_CHECKING:
    from common.errors import MessageBusError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Capability(StrEnum):
    """What not every transport can do; the contract suite tests what is declared."""

    DEDUPLICATION = "deduplication"
    """A message id that was stored within the duplicate window is not stored again."""
    DELAYED_RETRY = "delayed_retry"
    """`Delivery.nak` keeps to its delay."""
    ORDERED = "ordered"
    """One reader at a time for an ordered consumer, over all processes."""
    BROWSE = "browse"
    """`Transport.browse` and `Transport.remove`."""
    DURABLE = "durable"
    """What was acknowledged survives the process and the broker's restart."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message on its way to the broker.

    Args:
        subject: Such as ``"evt.call.completed"``.
        data: The body.
        id: Message id, by which the broker knows repetitions.
        stream: Name of the stream that keeps it.
        key: Partition key; messages of one key stay in order.
        headers: Further headers. The transport adds those of its own, such as the message id.
    """

    subject: str
    data: bytes
    id: str
    stream: str
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker's acknowledgement: the message is stored.

    Attributes:
        id: Message id.
        stream: Name of the stream.
        sequence: Position in the stream; 0 where the broker has none.
        duplicate: Whether the broker had the message id already, and kept the earlier message.
    """

    id: str
    stream: str
    sequence: int = 0
    duplicate: bool = False


class Delivery(ABC):
    """One message handed to a consumer; it is settled once, by `ack`, `nak` or `term`.

    Settling again, or after the consumer is closed, does nothing. None of the four waits for the
    broker's answer, and none raises when it cannot be reached: the message is then delivered
    again, as after any crash.

    Attributes:
        subject: Where it was published.
        data: The body.
        stream: Name of the stream.
        sequence: Position in the stream.
        attempt: How often it was delivered, this time included; counted by the broker.
        timestamp: When the broker stored it, aware and in UTC.
        received: When it arrived here, in seconds of `time.monotonic`.
        exhausted: The broker will not deliver it again; do not handle it, only store it as a
            dead letter. After `ack` or `term` the transport forgets it, after `nak` it comes
            again.
    """

    __slots__ = ("attempt", "data", "exhausted", "received", "sequence", "stream", "subject")

    subject: str
    data: bytes
    stream: str
    sequence: int
    attempt: int
    received: float
    exhausted: bool

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]:
        """Headers of the message; parsed when first asked for."""

    def header(self, name: str) -> str | None:
        """Return one header, as it was published; ``None``: there is none of this name.

        The bus asks for one of each message: a transport whose headers are dear to parse answers
        without parsing them.

        Args:
            name: As it was published, upper and lower case included.
        """
        headers = self.headers
        return headers.get(name) if headers else None

    @property
    @abstractmethod
    def timestamp(self) -> datetime:
        """When the broker stored it, aware and in UTC."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether `ack`, `nak` or `term` was called."""

    @abstractmethod
    async def ack(self) -> None:
        """The message is handled."""

    @abstractmethod
    async def nak(self, delay: float = 0.0) -> None:
        """Deliver it again.

        Args:
            delay: Not before this many seconds.
        """

    @abstractmethod
    async def term(self, reason: str = "") -> None:
        """Never deliver it again: it is stored as a dead letter, or of no use."""

    @abstractmethod
    async def in_progress(self) -> None:
        """Start the consumer's ``ack_wait`` anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """What a subscription wants from the broker.

    Args:
        durable: Name of the durable consumer; all processes with this name share its messages.
        stream: Name of the stream.
        subjects: Subjects to deliver, such as ``("evt.call.completed",)``; ``>`` is allowed. They
            are added to those the durable has: an older release that starts beside a newer one
            must not take away what only the newer one knows.
        ack_wait: Seconds after which an unsettled message is delivered again.
        max_outstanding: Most unsettled messages of this process; no more are asked for.
        max_deliver: Most deliveries of one message; ``None``: no limit. A message that reaches it
            without being settled comes once more, as ``exhausted``.
        deliver: What a new consumer starts with: all that is stored, or only what is new.
        ordered: Messages go to one process at a time, in the order of the stream, and after a
            crash nothing overtakes what that process had not settled.
    """

    durable: str
    stream: str
    subjects: tuple[str, ...]
    ack_wait: float = 30.0
    max_outstanding: int = 64
    max_deliver: int | None = None
    deliver: Literal["all", "new"] = "all"
    ordered: bool = False


class Consumer(ABC):
    """An open subscription of a transport.

    It keeps trying while the broker is away, with jittered back-off, and makes its durable
    consumer anew if somebody deleted that (what is stored may then come again).
    """

    @abstractmethod
    async def receive(self) -> Sequence[Delivery]:
        """Wait for messages; return those that are there, at least one.

        After `stop` it returns what had already arrived, then an empty sequence for ever.
        Cancelling it loses nothing.

        Raises:
            ConsumerLost: The stream is gone, and with it what the subscription is for.
            DeclarationConflict: The durable consumer cannot be used as declared.
            MessageBusError: Another fault that time does not mend.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ask the broker for no more, and hand back at once what was not yet received."""

    @abstractmethod
    async def close(self) -> None:
        """Stop, hand back what is not settled, and free everything. Idempotent."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies in a stream."""

    stream: str
    sequence: int
    subject: str
    data: bytes
    timestamp: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TransportHealth:
    """How the connection to the broker is.

    Attributes:
        ok: Whether messages can be published now.
        transport: Name of the transport.
        latency: Seconds of one round trip; ``None`` when not connected.
        reconnects: Times the connection was made anew.
        error: Why it is not ok.
    """

    ok: bool
    transport: str
    latency: float | None = None
    reconnects: int = 0
    error: str | None = None


class Transport(ABC):
    """A broker. Construction is cheap and checks the configuration; `open` connects.

    One transport serves publishers and consumers of one process and of one event loop. Enter it
    with ``async with``, or leave that to the bus.
    """

    name: ClassVar[str]
    """Such as ``"nats"``: OpenTelemetry's ``messaging.system``."""
    capabilities: ClassVar[frozenset[Capability]]

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Connect. Opening twice is the same as once.

        Raises:
            BrokerUnavailable: The broker was not reached in time.
            MessageBusError: It refused the credentials, among others.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close consumers, fail what is in flight with a result, disconnect. Idempotent."""

    @abstractmethod
    async def publish(
        self,
        message: Outgoing,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - retries share it
    ) -> Receipt:
        """Publish and wait for the acknowledgement.

        Faults that pass are retried under the same message id until the timeout. Callers may
        publish from many tasks at once; messages one task publishes one after another keep
        their order.

        Args:
            message: The message.
            timeout: Seconds for everything; ``None``: the transport's default. The deadline of
                the current context shortens it.

        Raises:
            PublishTimeout: No acknowledgement in time.
            PublishRejected: The broker refuses it (`MessageTooLarge`, among others).
            MissingStream: No stream takes the subject.
            PublishError: Another failure.
            TransportClosed: Not open, or closed meanwhile.
        """

    @abstractmethod
    async def publish_many(
        self,
        messages: Sequence[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - counted for each message
    ) -> "list[Receipt | MessageBusError]":
        """Publish a batch through the pipeline; one result for each message, in their order.

        Messages of one key are stored in their order as long as none of that key fails. Failures
        are results and are not raised; cancelling stops what is not sent.

        Args:
            messages: The messages.
            timeout: Seconds for each message from the time it is sent.

        Raises:
            TransportClosed: Not open.
        """

    @abstractmethod
    async def declare(self, streams: Sequence[StreamSpec], *, mode: DeclareMode) -> Plan:
        """Compare the streams with the broker, and bring them in line as far as the mode says.

        With ``"off"`` nothing is asked. To see a plan without changing anything, use `plan`.

        Raises:
            DeclarationConflict: A setting differs that cannot or, by the mode, may not be
                changed; subjects overlap.
        """

    @abstractmethod
    async def plan(self, streams: Sequence[StreamSpec]) -> Plan:
        """Return what ``declare(…, mode="reconcile")`` would do; never raises for conflicts."""

    @abstractmethod
    async def consume(self, spec: ConsumerSpec) -> Consumer:
        """Make the durable consumer if need be, and start to pull.

        Raises:
            MissingStream: There is no such stream.
            DeclarationConflict: The consumer exists with settings that cannot be changed.
        """

    @abstractmethod
    async def browse(
        self, stream: str, *, subject: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """Return stored messages in their order, without consuming them.

        Args:
            stream: Name of the stream.
            subject: Only those of this subject; ``>`` is allowed.
            after: Only those with a higher sequence.
            limit: Most messages.
        """

    @abstractmethod
    async def remove(self, stream: str, sequence: int) -> bool:
        """Delete a stored message; whether it was there."""

    @abstractmethod
    async def health(self) -> TransportHealth:
        """Ask the broker; never raises, and answers within two seconds."""
