"""The caller's side of failure: requests that cannot be fulfilled as they are."""

from common.errors._base import DomainError
from common.errors._fields import field


class ValidationError(DomainError):
    """Input breaks a rule.

    Args:
        message: Which rule; do not quote the value in it.
        field: Path of the field, such as ``"address.city"``.
        value: What was submitted. It may be a secret (the field may be ``password``), so it
            stays on the attribute: it never appears in ``details``, ``to_dict()``, ``str()``
            or ``repr()``.
    """

    code = "VALIDATION_ERROR"
    status = 422

    # `value` first: after the next line `field` names the attribute in this class's body.
    value: object = field(default=None, public=False)
    field: str | None = None


class NotFoundError(DomainError):
    """The thing asked for does not exist, or must seem not to."""

    code = "NOT_FOUND"
    status = 404

    resource: str | None = None
    resource_id: object = None


class ConflictError(DomainError):
    """The current state of a resource does not allow the change."""

    code = "CONFLICT"
    status = 409

    conflicting_resource: str | None = None
    current_state: str | None = None


class UnauthorizedError(DomainError):
    """The caller did not prove who they are (RFC 9110, section 15.5.2)."""

    code = "UNAUTHORIZED"
    status = 401
    default_message = "Authentication required"

    auth_type: str | None = None


class ForbiddenError(DomainError):
    """The caller is known and may not do this (RFC 9110, section 15.5.4)."""

    code = "FORBIDDEN"
    status = 403
    default_message = "Insufficient permissions"

    required_permission: str | None = None
    resource: str | None = None


class RateLimitedError(DomainError):
    """The caller asked too often (RFC 6585, section 4).

    Args:
        message: See `AppError`.
        limit: Requests allowed in one window.
        window: The window, such as ``"1m"``.
        retry_after: Seconds until the next request may succeed.
    """

    code = "RATE_LIMITED"
    status = 429
    default_message = "Rate limit exceeded"

    limit: int | None = None
    window: str | None = None
    retry_after: float | None = None
