"""A message in hand, and how it is settled (ADR-13, and the ack subjects of ADR-15)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from common.events.core._transport import Delivery
from common.events.nats._headers import parse_headers
from common.events.nats._settlements import ACK, NAK

if TYPE_CHECKING:
    from common.events.nats._pull import Pull

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TERM_REASON_BYTES = 256
_LONGEST_DELAY = 365 * 86_400.0


class Settler(Protocol):
    """Who takes a delivery's settlement."""

    def settle(self, delivery: "NatsDelivery", answer: bytes) -> None: ...
    def extend(self, delivery: "NatsDelivery") -> None: ...


class NatsDelivery(Delivery):
    """A message of a pull consumer.

    Args:
        pull: Whose it is.
        subject: Where it was published.
        data: The body.
        reply: ``$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<nanoseconds
            since 1970>.<pending>``; with domain and account before the stream in newer servers.
        tokens: The same, split, from the stream's name on.
        headers: As they came.
        received: See `Delivery`.
    """

    __slots__ = (
        "_headers",
        "_settled",
        "deadline",
        "epoch",
        "generation",
        "pin",
        "pull",
        "reply",
    )

    def __init__(  # noqa: PLR0917 - keywords would cost more than the rest
        self,
        pull: "Pull",
        subject: str,
        data: bytes,
        reply: bytes,
        tokens: list[bytes],
        headers: bytes | None,
        received: float,
    ) -> None:
        self.subject = subject
        self.data = data
        self.stream = pull.stream
        self.sequence = int(tokens[3])
        self.attempt = int(tokens[2])
        self.received = received
        self.exhausted = False
        self.pull: Settler = pull
        self.reply = reply
        self.deadline = received + pull.ack_wait
        self.generation = pull.generation
        self.epoch = pull.epoch.number
        self.pin: bytes | None = None
        self._headers = headers
        self._settled = False

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Delivery.headers`."""
        headers = parse_headers(self._headers)
        headers.pop("Nats-Pin-Id", None)  # the server's, of this delivery only
        return headers

    def header(self, name: str) -> str | None:
        """See `Delivery.header`."""
        raw = self._headers  # looked at before they are parsed: nearly no message has it
        return None if raw is None or name.encode() not in raw else self.headers.get(name)

    @property
    def timestamp(self) -> datetime:
        """See `Delivery.timestamp`."""
        nanoseconds = int(ack_tokens(self.reply)[5])
        return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)

    @property
    def consumer_sequence(self) -> int:
        """Position among all deliveries of the consumer."""
        return int(ack_tokens(self.reply)[4])

    @property
    def settled(self) -> bool:
        """See `Delivery.settled`."""
        return self._settled

    @property
    def following(self) -> int:
        """How many messages the consumer then had still to deliver."""
        return int(ack_tokens(self.reply)[6])

    async def ack(self) -> None:
        """See `Delivery.ack`."""
        if not self._settled:
            self._settled = True
            self.pull.settle(self, ACK)

    async def nak(self, delay: float = 0.0) -> None:
        """See `Delivery.nak`."""
        self.hand_back(delay)

    async def term(self, reason: str = "") -> None:
        """See `Delivery.term`."""
        if not self._settled:
            self._settled = True
            # The reason is shown in the server's advisory (nats-server 2.11).
            words = " ".join(reason.split()).encode()[:_TERM_REASON_BYTES]
            self.pull.settle(self, b"+TERM " + words if words else b"+TERM")

    async def in_progress(self) -> None:
        """See `Delivery.in_progress`."""
        if not self._settled:
            self.pull.extend(self)

    def forget(self) -> None:
        """Make room for another message of a consumer that wants no acknowledgements."""
        if not self._settled:
            self._settled = True
            self.pull.settle(self, b"")

    def hand_back(self, delay: float = 0.0) -> None:
        """Give it back to the broker, unless it is settled."""
        if not self._settled:
            self._settled = True
            answer = NAK
            if delay > 0:
                answer = b'-NAK {"delay":%d}' % int(min(delay, _LONGEST_DELAY) * 1e9)
            self.pull.settle(self, answer)


def ack_tokens(reply: bytes) -> list[bytes]:
    """Return the tokens of an ack subject from the stream's name on.

    Example:
        >>> ack_tokens(b"$JS.ACK.CALL.billing.1.7.9.1795374005253559054.4")[:4]
        [b'CALL', b'billing', b'1', b'7']
        >>> ack_tokens(b"$JS.ACK.hub.AbC.CALL.billing.1.7.9.1795374005253559054.4.rnd")[:4]
        [b'CALL', b'billing', b'1', b'7']
    """
    tokens = reply.split(b".")
    return tokens[2:] if len(tokens) == 9 else tokens[4:]
