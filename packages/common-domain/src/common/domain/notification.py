"""E-mails to merchants: commands, what became of them, keys against doubles, and errors."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

from pydantic import Field

from common.domain._idempotency import Keyed, idempotency_key
from common.domain._json import JsonObject
from common.domain._message import Command, Event
from common.domain._model import ValueObject
from common.domain._sensitive import Sensitive
from common.domain._types import (
    Count,
    EmailAddress,
    Label,
    Seconds,
    Text,
    Token,
    UtcDatetime,
)
from common.errors import ConflictError, InfrastructureError, NotFoundError, ValidationError, field

# --- commands -------------------------------------------------------------------------------


class Recipient(ValueObject):
    """Who gets an e-mail, and what is particular to theirs."""

    merchant_id: UUID
    merchant_domain: Label
    email: EmailAddress
    unsubscribe_token: Token
    dynamic_content: Annotated[JsonObject, Sensitive()] = Field(default_factory=dict)


class SendEmail(Command, type="notification.send_email", version=1, key="recipient.merchant_id"):
    """Send an e-mail to one recipient; see `email_command`."""

    notification_type: Label
    recipient: Recipient


class SendEmailBulk(Command, type="notification.bulk_send", version=1):
    """Send an e-mail to each of many recipients; see `bulk_email_command`."""

    notification_type: Label
    recipients: Annotated[list[Recipient], Field(max_length=10_000)]


SendEmailCommandPayload = SendEmail
SendEmailBulkCommandPayload = SendEmailBulk


class NotificationCommands(StrEnum):
    """Subjects of the notification commands."""

    NOTIFICATION_SEND_EMAIL = SendEmail.__message__.subject
    NOTIFICATION_SEND_BULK = SendEmailBulk.__message__.subject


def email_command(
    notification_type: str, recipient: Recipient, *, at: datetime | None = None
) -> Keyed[SendEmail]:
    """Return a command and the key which lets a recipient get it once per hour.

    The same merchant, e-mail address (whatever its case) and notification type within the same
    UTC hour give the same key, whatever the content. The key shows the merchant's id but not
    the address.

    Args:
        notification_type: Which e-mail, such as ``"low_credit"``.
        recipient: Who gets it.
        at: When; now by default. Give the time of the cause, so that a retry after the full
            hour has the same key.

    Raises:
        ValueError: ``at`` has no offset, or leaves the calendar in UTC.

    Example:
        >>> at = datetime(2026, 11, 22, 16, 30, tzinfo=UTC)
        >>> recipient = Recipient(
        ...     merchant_id=UUID(int=7),
        ...     merchant_domain="shop.example",
        ...     email="owner@shop.example",
        ...     unsubscribe_token="t",
        ... )
        >>> command, key = email_command("low_credit", recipient, at=at)
        >>> key == email_command("low_credit", recipient, at=at.replace(minute=59)).idempotency_key
        True
    """
    key = idempotency_key(
        "notification",
        f"send_email.{notification_type}",
        f"{recipient.merchant_id}/{_digest([recipient])}",
        _hour(at),
    )
    return Keyed(SendEmail(notification_type=notification_type, recipient=recipient), key)


def bulk_email_command(
    notification_type: str, recipients: Sequence[Recipient], *, at: datetime | None = None
) -> Keyed[SendEmailBulk]:
    """Return a command and the key which lets a set of recipients get it once per hour.

    As `email_command`; the order of the recipients does not matter.

    Raises:
        ValueError: ``at`` has no offset, or leaves the calendar in UTC.
    """
    key = idempotency_key(
        "notification", f"bulk_send.{notification_type}", _digest(recipients), _hour(at)
    )
    command = SendEmailBulk(notification_type=notification_type, recipients=list(recipients))
    return Keyed(command, key)


def _digest(recipients: Sequence[Recipient]) -> str:
    found = {f"{each.merchant_id} {each.email.lower()}" for each in recipients}
    # An address has no white space, so lines cannot run into each other.
    return blake2b("\n".join(sorted(found)).encode(), digest_size=16).hexdigest()


def _hour(at: datetime | None) -> str:
    if at is None:
        at = datetime.now(UTC)
    if at.utcoffset() is None:
        raise ValueError("at needs an offset: use datetime.now(UTC)")
    try:
        return f"{at.astimezone(UTC):%Y-%m-%dT%H}"
    except OverflowError:
        raise ValueError("at lies outside of the years 1 to 9999 in UTC") from None


# --- events ---------------------------------------------------------------------------------


class EmailSent(Event, type="notification.email.sent", version=1, key="notification_id"):
    """The provider accepted an e-mail."""

    notification_id: UUID
    merchant_id: UUID
    notification_type: Label
    provider: Label
    provider_message_id: Label
    sent_at: UtcDatetime
    metadata: JsonObject = Field(default_factory=dict)


class EmailFailed(Event, type="notification.email.failed", version=1, key="notification_id"):
    """An e-mail could not be sent."""

    notification_id: UUID
    merchant_id: UUID
    notification_type: Label
    error: Text
    error_code: Label
    retry_count: Count
    will_retry: bool
    failed_at: UtcDatetime


class BulkSendCompleted(
    Event, type="notification.bulk_send.completed", version=1, key="bulk_job_id"
):
    """All e-mails of a bulk command were tried."""

    bulk_job_id: UUID
    notification_type: Label
    total_recipients: Count
    total_sent: Count
    total_failed: Count
    total_skipped: Count
    duration_seconds: Seconds
    completed_at: UtcDatetime


EmailSentEventPayload = EmailSent
EmailFailedEventPayload = EmailFailed
BulkCompletedEventPayload = BulkSendCompleted


class NotificationEvents(StrEnum):
    """Subjects of the notification events."""

    NOTIFICATION_EMAIL_SENT = EmailSent.__message__.subject
    NOTIFICATION_EMAIL_FAILED = EmailFailed.__message__.subject
    NOTIFICATION_BULK_SEND_COMPLETED = BulkSendCompleted.__message__.subject


# --- errors ---------------------------------------------------------------------------------


class NotificationNotFoundError(NotFoundError):
    """There is no such notification."""

    code = "NOTIFICATION_NOT_FOUND"

    notification_id: UUID | None = None
    merchant_id: UUID | None = None


class TemplateNotFoundError(NotFoundError):
    """There is no such template."""

    code = "TEMPLATE_NOT_FOUND"

    template_name: str | None = None
    template_type: str | None = None


class TemplateRenderError(ValidationError):
    """The template and its variables do not fit."""

    code = "TEMPLATE_RENDER_ERROR"

    template_name: str | None = None
    missing_variables: list[str] | None = None
    render_error: str | None = None


class InvalidRecipientError(ValidationError):
    """The recipient cannot get e-mail.

    Args:
        message: See `common.errors.AppError`.
        recipient: The address; personal, so it stays on the attribute and appears neither in
            ``details`` nor in a repr.
        reason: Why not.
    """

    code = "INVALID_RECIPIENT"

    recipient: str | None = field(default=None, public=False)
    reason: str | None = None


class PreferencesNotFoundError(NotFoundError):
    """The user has no notification preferences."""

    code = "PREFERENCES_NOT_FOUND"

    user_id: str | None = None


class EmailProviderError(InfrastructureError):
    """The e-mail provider failed."""

    code = "EMAIL_PROVIDER_ERROR"

    provider: str | None = None
    provider_error_code: str | None = None
    provider_message: str | None = None


class UnsubscribedError(ConflictError):
    """The recipient does not want this kind of e-mail."""

    code = "UNSUBSCRIBED"
    default_message = "Recipient has unsubscribed from notifications"

    user_id: str | None = None
    notification_type: str | None = None
    unsubscribed_at: str | None = None
