"""What is known about the message in hand, beside its data."""

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import TypeVar

from common.domain import Message
from common.events.core._envelope import Envelope
from common.events.core._errors import HandlerError
from common.events.core._transport import Delivery

T = TypeVar("T")


class EventContext:
    """The message in hand: its envelope, and how it came.

    Attributes:
        event: The decoded message; the same the handler gets.
        envelope: Its attributes: id, source, time, correlation and causation, tenant, trace.
        consumer: Durable name of the subscription.
        attempt: How often this message was handed in, this time included.
        error: Why this attempt failed, once it did.
    """

    __slots__ = (
        "_delivery",
        "_transaction",
        "attempt",
        "consumer",
        "envelope",
        "error",
        "event",
    )

    event: Message
    envelope: Envelope
    consumer: str
    attempt: int
    error: Exception | None

    def __init__(
        self,
        event: Message,
        envelope: Envelope,
        delivery: Delivery,
        *,
        consumer: str,
        attempt: int,
    ) -> None:
        self.event = event
        self.envelope = envelope
        self.consumer = consumer
        self.attempt = attempt
        self.error = None
        self._delivery = delivery
        self._transaction: object = None

    @property
    def message_id(self) -> str:
        """Id of the message, by which repetitions are known."""
        return self.envelope.id

    @property
    def key(self) -> str | None:
        """Partition key."""
        return self.envelope.subject

    @property
    def subject(self) -> str:
        """Subject it was published to, such as ``"evt.call.completed"``."""
        return self._delivery.subject

    @property
    def stream(self) -> str:
        """Name of the stream that keeps it."""
        return self._delivery.stream

    @property
    def sequence(self) -> int:
        """Position in the stream."""
        return self._delivery.sequence

    @property
    def stored(self) -> datetime:
        """When the broker stored it, aware and in UTC."""
        return self._delivery.timestamp

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the message, as the broker gave them."""
        return self._delivery.headers

    def transaction(self, kind: type[T]) -> T:
        """Return the inbox's transaction, in which effects commit together with the mark "done".

        Args:
            kind: Class of the transaction, such as ``UnitOfWork``.

        Raises:
            HandlerError: The subscription has no inbox, or one with another kind of transaction.
        """
        if isinstance(self._transaction, kind):
            return self._transaction
        if self._transaction is None:
            raise HandlerError(
                f"subscription {self.consumer!r} has no inbox: pass inbox=… to subscribe()"
            )
        raise HandlerError(
            f"the transaction of subscription {self.consumer!r} is a "
            f"{type(self._transaction).__qualname__}, no {kind.__qualname__}"
        )

    def bind_transaction(self, transaction: object) -> None:
        """Set what `transaction` returns; for the inbox."""
        self._transaction = transaction

    def __repr__(self) -> str:
        return (
            f"EventContext({type(self.event).__name__}, id={self.message_id!r}, "
            f"consumer={self.consumer!r}, attempt={self.attempt})"
        )


in_hand: ContextVar[EventContext | None] = ContextVar("common.events.in_hand", default=None)


def current_event() -> EventContext | None:
    """Return the context of the message being handled in this task, if there is one.

    What is published meanwhile has its id as causation id.
    """
    return in_hand.get()
