"""What nats-py raises for key-value and object stores, as typed errors."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from common.errors import AppError, ConflictError, MessageBusError, NotFoundError, map_errors
from common.errors import ValidationError as InvalidInput
from common.events.core._errors import (
    BrokerUnavailable,
    MessageTooLarge,
    MissingStream,
    TransportClosed,
)
from common.events.nats._connection import Connection
from common.events.nats._errors import from_answer
from nats import errors as nats_errors
from nats.js import errors as js_errors

if TYPE_CHECKING:
    from collections.abc import Callable


class BucketNotFound(NotFoundError):  # noqa: N818 - named by what is the case
    """The bucket does not exist: open it with ``create=True``, or create it."""

    code = "NATS_BUCKET_NOT_FOUND"

    bucket: str


class KeyExists(ConflictError):  # noqa: N818 - named by what is the case
    """The key has a value already."""

    code = "NATS_KEY_EXISTS"

    key: str


class RevisionConflict(ConflictError):  # noqa: N818 - named by what is the case
    """Somebody has changed the key since the revision that was named: read it again.

    Args:
        message: See `common.errors.AppError`.
        key: The key.
        revision: What was expected.
    """

    code = "NATS_REVISION_CONFLICT"
    retryable = True

    key: str
    revision: int


class ObjectNotFound(NotFoundError):  # noqa: N818 - named by what is the case
    """The object does not exist."""

    code = "NATS_OBJECT_NOT_FOUND"

    object_name: str


class ObjectDamaged(MessageBusError):  # noqa: N818 - named by what is the case
    """The object's parts are missing, or do not have the digest that was stored with them."""

    code = "NATS_OBJECT_DAMAGED"
    retryable = False

    object_name: str


class ObjectTooLarge(MessageTooLarge):
    """The object is larger than the caller takes."""

    code = "NATS_OBJECT_TOO_LARGE"


def mapped(what: str) -> AbstractContextManager[Any]:
    """Turn nats-py's errors into typed ones.

    Args:
        what: Was done, such as ``"key-value bucket sessions"``.
    """
    table: dict[type[BaseException], type[AppError] | Callable[[Any], AppError | None]] = {
        nats_errors.Error: lambda error: MessageBusError(f"{what}: {type(error).__name__}"),
        nats_errors.TimeoutError: lambda _: BrokerUnavailable(f"{what}: no answer in time"),
        nats_errors.NoRespondersError: lambda _: BrokerUnavailable(f"{what}: nobody answers"),
        nats_errors.ConnectionClosedError: lambda _: TransportClosed(f"{what}: not connected"),
        nats_errors.OutboundBufferLimitError: lambda _: BrokerUnavailable(f"{what}: no connection"),
        nats_errors.MaxPayloadError: lambda _: MessageTooLarge(f"{what}: larger than NATS takes"),
        js_errors.NoStreamResponseError: lambda _: MissingStream(f"{what}: no stream takes it"),
        js_errors.APIError: lambda error: from_answer(
            {
                "code": error.code,
                "err_code": error.err_code,
                "description": error.description,
            },
            what=what,
        ),
    }
    return map_errors(table)


def jetstream(connection: Connection, seconds: float) -> Any:
    """Return nats-py's JetStream client on a connection.

    Args:
        connection: Open.
        seconds: Longest time for one request.
    """
    nc = connection.nc
    if connection.config.domain:
        return nc.jetstream(timeout=seconds, domain=connection.config.domain)
    return nc.jetstream(timeout=seconds)


def check_bucket(name: str) -> None:
    """Refuse what cannot be a bucket's name.

    Raises:
        ValidationError: Saying what may be in it.
    """
    allowed = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    if not 1 <= len(name) <= 128 or not allowed.issuperset(name):
        raise InvalidInput(
            "a bucket's name has 1 to 128 letters, digits, hyphens and underscores",
            field="name",
        )
