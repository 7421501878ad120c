"""What goes wrong between a service and its broker."""

from common.errors import DomainError, MessageBusError


class PublishError(MessageBusError):
    """The broker has not acknowledged a message: it may or may not be stored.

    Publishing again under the same message id within the stream's duplicate window is safe.

    Args:
        message: See `common.errors.AppError`.
        message_id: Id of the message.
    """

    code = "PUBLISH_FAILED"

    message_id: str | None = None


class PublishTimeout(PublishError):  # noqa: N818 - named for what happened
    """No acknowledgement came in time; the broker may have stored the message."""

    code = "PUBLISH_TIMEOUT"
    status = 504


class PublishRejected(PublishError):  # noqa: N818 - named for what happened
    """The broker has refused the message: publishing it again unchanged cannot help."""

    code = "PUBLISH_REJECTED"
    status = 502
    retryable = False


class MessageTooLarge(PublishRejected):
    """The message is larger than the broker takes.

    Args:
        message: See `common.errors.AppError`.
        size: Bytes of the message.
        limit: Bytes the broker takes.
    """

    code = "MESSAGE_TOO_LARGE"
    status = 413

    size: int | None = None
    limit: int | None = None


class TransportClosed(MessageBusError):  # noqa: N818 - named for what happened
    """The transport or bus is not open: enter it with ``async with``, or call ``run()``."""

    code = "TRANSPORT_CLOSED"
    retryable = False


class BrokerUnavailable(MessageBusError):  # noqa: N818 - named for what happened
    """The broker cannot be reached, or has no leader at the moment."""

    code = "BROKER_UNAVAILABLE"


class DeclarationConflict(MessageBusError):  # noqa: N818 - named for what happened
    """A stream or consumer exists with a setting that cannot be changed, or that differs.

    Args:
        message: See `common.errors.AppError`.
        differences: One line each: ``"storage: memory, wanted file (cannot be changed)"``.
    """

    code = "DECLARATION_CONFLICT"
    status = 409
    retryable = False

    differences: list[str] | None = None


class MissingStream(MessageBusError):  # noqa: N818 - named for what happened
    """The stream does not exist on the broker: declare it, or let the bus create it."""

    code = "MISSING_STREAM"
    retryable = False


class ConsumerLost(MessageBusError):  # noqa: N818 - named for what happened
    """The broker no longer has the consumer: somebody deleted it, or its stream."""

    code = "CONSUMER_LOST"


class UndecodableMessage(DomainError):  # noqa: N818 - named for what happened
    """A message is no envelope that can be read. Nothing of it is quoted.

    Args:
        message: What is wrong with it.
        reason: One of ``malformed``, ``unknown_type``, ``unknown_version``, ``invalid_data``.
    """

    code = "UNDECODABLE_MESSAGE"
    status = 422

    reason: str = "malformed"


class HandlerError(DomainError):
    """A handler, a dependency or a subscription is declared wrongly; raised before any message."""

    code = "HANDLER_ERROR"
    status = 500
