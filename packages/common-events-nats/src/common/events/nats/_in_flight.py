"""One message on its way, and what JetStream's answer to it means."""

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from common.errors import MessageBusError
from common.events.core._errors import (
    MessageTooLarge,
    PublishError,
    PublishRejected,
    PublishTimeout,
)
from common.events.core._transport import Outgoing, Receipt
from common.events.nats._errors import ErrCode, JetStreamError, from_answer

Result = Receipt | MessageBusError

_FULL = frozenset(
    {
        ErrCode.ACCOUNT_RESOURCES_EXCEEDED,
        ErrCode.INSUFFICIENT_RESOURCES,
        ErrCode.MEMORY_RESOURCES_EXCEEDED,
        ErrCode.STORAGE_RESOURCES_EXCEEDED,
        ErrCode.STREAM_STORE_FAILED,
    }
)
_LARGE = frozenset({ErrCode.MESSAGE_EXCEEDS_MAXIMUM, ErrCode.HEADERS_EXCEED_MAXIMUM})


class InFlight:
    """A message without acknowledgement.

    Attributes:
        token: Last word of the subject for its answer.
        command: What is sent, each time the same.
        done: Called once, with the result.
        deadline: In seconds of `time.monotonic`, as all times here.
        resend_at: When it is sent again; infinite while there is no connection.
        resend_until: When it must not be sent again any more.
        attempts: Times it was sent.
        trouble: What was answered last in place of an acknowledgement.
        unanswered: Nobody listened to its subject.
    """

    __slots__ = (
        "attempts",
        "command",
        "deadline",
        "done",
        "message",
        "resend_at",
        "resend_until",
        "token",
        "trouble",
        "unanswered",
    )

    def __init__(
        self,
        message: Outgoing,
        token: bytes,
        command: bytes,
        deadline: float,
        done: Callable[[Result], None],
    ) -> None:
        self.message = message
        self.token = token
        self.command = command
        self.deadline = deadline
        self.done = done
        self.resend_at = float("inf")
        self.resend_until = float("inf")
        self.attempts = 0
        self.trouble: str | None = None
        self.unanswered = False

    @property
    def size(self) -> int:
        """Bytes of headers and body together, as the command has them."""
        return int(self.command[: self.command.index(b"\r\n")].rpartition(b" ")[2])

    def timed_out(self, why: str | None = None) -> PublishTimeout:
        """Return the error for no acknowledgement in time."""
        why = self.trouble or why
        return PublishTimeout(
            f"{self.message.subject}: no acknowledgement in time, sent {self.attempts} times"
            + (f" ({why})" if why else ""),
            message_id=self.message.id,
        )


def judge(message: Outgoing, data: bytes) -> Receipt | MessageBusError | str:
    """Return what an answer means: a receipt, an error for good, or why to send it again."""
    try:
        ack: Any = from_json(data)
    except ValueError:
        ack = None
    if type(ack) is not dict:
        return _confusing(message)
    if "error" in ack:
        return _refused(message, ack["error"])
    stream, sequence = ack.get("stream"), ack.get("seq")
    if type(stream) is not str or type(sequence) is not int or not stream or sequence < 1:
        return _confusing(message)
    if stream != message.stream and message.stream:
        return PublishRejected(
            f"{message.subject}: stored by stream {stream}, though it belongs to "
            f"{message.stream}: correct the subjects of these streams",
            message_id=message.id,
        )
    return Receipt(message.id, stream, sequence, ack.get("duplicate") is True)


def _confusing(message: Outgoing) -> str:
    return f"an answer was no acknowledgement: does a service reply on {message.subject}?"


def _refused(message: Outgoing, answered: object) -> MessageBusError | str:
    error = from_answer(answered, what=message.subject)
    if not isinstance(error, JetStreamError):
        return error if not error.retryable else error.message
    if error.err_code in _LARGE:
        return MessageTooLarge(
            f"{message.subject}: larger than stream {message.stream} takes",
            message_id=message.id,
            size=len(message.data),
        )
    if error.err_code in _FULL:
        # Also what a full disk leads to; room may be made, so that it is worth another try later.
        return PublishRejected(
            f"{message.subject}: stream {message.stream} is full or cannot store: "
            f"{error.description} (err_code {error.err_code})",
            message_id=message.id,
            retryable=True,
        )
    if error.api_code >= 500:
        return PublishError(error.message, message_id=message.id)
    text = error.message
    if error.err_code == ErrCode.STREAM_MISMATCH:
        text = (
            f"{message.subject}: not stored, because it belongs to stream {message.stream} and "
            "another one takes its subject: correct the subjects of these streams"
        )
    return PublishRejected(text, message_id=message.id)
