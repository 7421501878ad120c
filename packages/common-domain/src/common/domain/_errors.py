"""What goes wrong with a message before a handler sees it."""

from collections.abc import Iterable

from common.errors import DomainError


class MessageError(DomainError):
    """A message cannot be used: base of the errors below.

    Args:
        message: See `common.errors.AppError`.
        type: The message's type.
        version: The message's version.
    """

    code = "MESSAGE_ERROR"
    status = 422

    type: str | None = None
    version: int | None = None


class UnknownTypeError(MessageError):
    """No declared class has this type."""

    code = "UNKNOWN_MESSAGE_TYPE"


class UnknownVersionError(MessageError):
    """The type is known, but no declared class reads this version of it."""

    code = "UNKNOWN_MESSAGE_VERSION"


class NewerVersionError(UnknownVersionError):
    """The version is newer than this service: update the service, then replay the message."""

    code = "NEWER_MESSAGE_VERSION"


class InvalidMessageError(MessageError):
    """The data of a message does not fit its type. No input is quoted.

    Args:
        message: Names each field and its problem.
        problems: The same as a list, ``"path: problem"`` each; at most 20.
    """

    code = "INVALID_MESSAGE"

    problems: list[str] | None = None


class UnknownStreamError(DomainError):
    """No declared stream takes the subject, or has the name."""

    code = "UNKNOWN_STREAM"


class PublishNotAllowedError(DomainError):
    """The service may not publish this type: it belongs to another service's stream."""

    code = "PUBLISH_NOT_ALLOWED"
    status = 403

    service: str | None = None
    type: str | None = None
    stream: str | None = None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean x?)"``, or nothing when nothing is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed when something failed

    close = get_close_matches(name[:128], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
