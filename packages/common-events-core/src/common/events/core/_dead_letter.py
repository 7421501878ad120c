"""Stores what nobody could handle."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from common.context import new_id, operation
from common.events.core._declarations import DEAD_LETTER_PREFIX, DEAD_LETTERS
from common.events.core._errors import MessageTooLarge
from common.events.core._transport import Delivery, Outgoing, Receipt, Transport

REPLAY_CONSUMER = "Replay-Consumer"
"""Header of a message that was a dead letter and is published again: the durable name of the
subscription that is to handle it. All others acknowledge it unread."""

_OWN = "dead-letter-"
# Instructions to the broker and what it added itself: they would be obeyed a second time.
_BROKERS = ("nats-", "status", "description")


class DeadLetter(NamedTuple):
    """Why a message is given up.

    Args:
        reason: One of ``attempts`` (none is left), ``exhausted`` (the broker gave up),
            ``rejected``, ``given_up`` (an exception of ``give_up_on``), or that of
            `UndecodableMessage`.
        error: What went wrong, on one line.
        attempts: How often it was tried.
        consumer: Durable name of the subscription.
    """

    reason: str
    error: str
    attempts: int
    consumer: str


async def store_dead_letter(
    transport: Transport, delivery: Delivery, letter: DeadLetter
) -> Receipt:
    """Publish a message to the stream of dead letters; the body is as it came.

    The message id is made of consumer, position and time, so that storing it again stores nothing.

    Raises:
        MessageBusError: It is not stored, or nobody knows.
    """
    subject = DEAD_LETTER_PREFIX + delivery.subject
    attributes = {
        "messaging.system": transport.name,
        "messaging.destination.name": DEAD_LETTERS,
        "messaging.consumer.group.name": letter.consumer,
        "messaging.dead_letter.reason": letter.reason,
    }
    # The time, because positions start again when the stream is made anew.
    place = f"{delivery.sequence}:{delivery.timestamp.isoformat()}"
    own = _headers(delivery, letter)
    with operation("messaging.settle", "dead_letter", attributes):
        message = Outgoing(
            subject=subject,
            data=delivery.data,
            id=f"{letter.consumer}:{delivery.stream}:{place if delivery.sequence else new_id()}",
            stream=DEAD_LETTERS,
            headers={**_kept(delivery.headers), **own},
        )
        try:
            return await transport.publish(message)
        except MessageTooLarge:
            # It was as large as the broker takes already: the body is what must not be lost.
            return await transport.publish(
                Outgoing(subject, delivery.data, message.id, DEAD_LETTERS, headers=own)
            )


def _headers(delivery: Delivery, letter: DeadLetter) -> dict[str, str]:
    return {
        "Dead-Letter-Reason": letter.reason,
        "Dead-Letter-Error": _line(letter.error),
        "Dead-Letter-Attempts": str(letter.attempts),
        "Dead-Letter-Consumer": letter.consumer,
        "Dead-Letter-Stream": delivery.stream,
        "Dead-Letter-Sequence": str(delivery.sequence),
        "Dead-Letter-Subject": delivery.subject,
        "Dead-Letter-Time": datetime.now(UTC).isoformat(),
    }


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if not name.lower().startswith((_OWN, *_BROKERS))
    }


def _line(text: str) -> str:
    # A header is one line of printable ASCII; anything else could become a second header.
    printable = "".join(char if " " <= char <= "~" else "?" for char in text[:500])
    return printable.strip() or "?"
