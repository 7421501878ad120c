"""What another service's HTTP answer means here."""

from __future__ import annotations

import math
import time

from common.errors._domain import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
    ValidationError,
)
from common.errors._infrastructure import (
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
)

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    from common.errors._base import AppError, DomainError

MAX_RETRY_AFTER = 86_400.0  # seconds

_OURS: dict[int, type[AppError]] = {
    404: NotFoundError,
    408: RequestTimeoutError,
    409: ConflictError,
    410: NotFoundError,
    412: ConflictError,
    429: RateLimitedError,
    503: ServiceUnavailableError,
    504: RequestTimeoutError,
}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# These blame whoever sent the request, which is this service unless it acted for its caller.
_DELEGATED: dict[int, type[DomainError]] = {
    400: ValidationError,
    401: UnauthorizedError,
    403: ForbiddenError,
    422: ValidationError,
}
# 425 Too Early (RFC 8470) asks for a repetition. 5xx that are not listed here say that the
# request will never work: 501, 505, 506, 508, 510, 511.
_RETRYABLE = frozenset({425, 500, 502, 507, *range(520, 600)})


def classify_http(
    status: int,
    *,
    service: str | None = None,
    endpoint: str | None = None,
    error: str | None = None,
    message: str | None = None,
    retry_after: str | None = None,
    delegated: bool = False,
    now: datetime | None = None,
    cause: BaseException | None = None,
) -> AppError:
    """Return (not raise) the error that an HTTP status of another service means here.

    ========================  =======================================================
    status                    error
    ========================  =======================================================
    404, 410                  `NotFoundError`
    408, 504                  `RequestTimeoutError`, retryable
    409, 412                  `ConflictError`
    429                       `RateLimitedError`, retryable
    503                       `ServiceUnavailableError`, retryable
    425, 500, 502, 507, 52x…  `UpstreamServiceError`, retryable
    every other               `UpstreamServiceError`, not retryable
    400, 422; 401; 403        with ``delegated``: `ValidationError`, `UnauthorizedError`,
                              `ForbiddenError`
    ========================  =======================================================

    A 401 to *this service's* credentials must not tell its caller to log in again; that is why
    400, 401, 403 and 422 count as upstream errors unless the call was ``delegated``.

    Args:
        status: The HTTP status, 300 or above.
        service: Name of the other service.
        endpoint: What was called. Of a URL only the path is kept: the rest may hold secrets,
            and which hosts there are inside is not for the caller of the API to see.
        error: The other service's own error code.
        message: What happened, for the caller; by default names the service and the status.
        retry_after: The ``Retry-After`` header, see `parse_retry_after`. It is kept as
            ``retry_after`` (seconds) on the errors that have it.
        delegated: Whether the call carried the credentials and the input of this service's
            own caller.
        now: The time to which an HTTP date relates, by default the current time. The answer's
            own ``Date`` evens out clocks that differ.
        cause: Becomes ``__cause__``.

    Raises:
        ValueError: If the status is no error (below 300).

    Example:
        >>> error = classify_http(503, service="billing", retry_after="120")
        >>> type(error).__name__, error.retryable, error.details["retry_after"]
        ('ServiceUnavailableError', True, 120.0)
    """
    if status < 300:
        raise ValueError(f"HTTP status {status} is no error: classify only 300 and above")
    ours = _OURS.get(status) or (_DELEGATED.get(status) if delegated else None)
    facts: dict[str, Any] = {
        "upstream_service": service,
        "upstream_status": status,
        "upstream_error": error,
        "endpoint": None if endpoint is None else _path(endpoint),
    }
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    message = message or f"{service or 'The upstream service'} answered with HTTP status {status}"
    seconds = parse_retry_after(retry_after, now=now)
    if ours is None:
        return UpstreamServiceError(
            message,
            service=service,
            retryable=status in _RETRYABLE,
            retry_after=seconds,
            cause=cause,
            **facts,
        )
    if issubclass(ours, RateLimitedError):
        limited = ours(message, retry_after=seconds, details=facts, cause=cause)
        limited.retryable = True
        return limited
    if issubclass(ours, ServiceUnavailableError | RequestTimeoutError):
        return ours(message, service=service, retry_after=seconds, details=facts, cause=cause)
    return ours(message, details=facts, cause=cause)


def parse_retry_after(
    value: str | None, *, now: datetime | None = None, limit: float = MAX_RETRY_AFTER
) -> float | None:
    """Return the seconds a ``Retry-After`` header asks to wait (RFC 9110, section 10.2.3).

    Args:
        value: The header: whole seconds or an HTTP date, in any of the three formats of
            RFC 9110, section 5.6.7.
        now: The (aware) time to which a date relates, by default the current time.
        limit: The longest wait to return, in seconds.

    Returns:
        Seconds between 0 and ``limit``; a negative number and a date in the past are 0.
        ``None`` without a header, or when it is neither a number nor a date.

    Example:
        >>> parse_retry_after("120"), parse_retry_after("soon")
        (120.0, None)
    """
    text = "" if value is None else value.strip(" \t")
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        # Longer than any limit, and int() refuses thousands of digits.
        seconds = math.inf if len(text) > 15 else float(text)
        seconds = 0.0 if text.startswith("-") else seconds
    else:
        date = _http_date(text)
        if date is None:
            return None
        seconds = date.timestamp() - (now.timestamp() if now else time.time())
    return min(max(seconds, 0.0), limit)


def _http_date(text: str) -> datetime | None:
    if not text.startswith(_DAYS) or len(text) > 40:
        return None
    from datetime import UTC  # noqa: PLC0415
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - costly, and rarely needed

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _path(endpoint: str) -> str:
    bare = endpoint.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = bare.partition("//")
    if not slashes or not (scheme == "" or scheme.endswith(":")):
        return bare
    return f"/{rest.partition('/')[2]}"
