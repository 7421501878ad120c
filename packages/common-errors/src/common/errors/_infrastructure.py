"""This side of failure: things that a service depends on."""

from common.errors._base import InfrastructureError


class ServiceUnavailableError(InfrastructureError):
    """A dependency, or this service itself, takes no work at the moment."""

    code = "SERVICE_UNAVAILABLE"
    status = 503


class RequestTimeoutError(InfrastructureError):
    """An operation took longer than it was given.

    Args:
        message: See `AppError`.
        timeout_seconds: The time it was given.
        operation: What was attempted.
    """

    code = "TIMEOUT"
    status = 504

    timeout_seconds: float | None = None
    operation: str | None = None


class DatabaseError(InfrastructureError):
    """A database failed; ``error_code`` is its own, such as an SQLSTATE."""

    code = "DATABASE_ERROR"

    operation: str | None = None
    table: str | None = None
    error_code: str | None = None


class RedisError(InfrastructureError):
    """Redis or Valkey failed."""

    code = "REDIS_ERROR"

    operation: str | None = None
    key: str | None = None


class S3Error(InfrastructureError):
    """An object store failed; ``error_code`` is its own."""

    code = "S3_ERROR"

    operation: str | None = None
    bucket: str | None = None
    key: str | None = None
    error_code: str | None = None


class UpstreamServiceError(InfrastructureError):
    """Another service answered with an error; see `classify_http`.

    Args:
        message: See `AppError`.
        upstream_service: Name of the service.
        upstream_status: HTTP status it answered with.
        upstream_error: Its own error code.
        endpoint: What was called, for the caller to see: a path without host and query.
    """

    code = "UPSTREAM_SERVICE_ERROR"

    upstream_service: str | None = None
    upstream_status: int | None = None
    upstream_error: str | None = None
    endpoint: str | None = None


class CircuitOpenError(InfrastructureError):
    """A circuit breaker refuses calls until ``open_until`` (RFC 3339)."""

    code = "CIRCUIT_OPEN"

    service_name: str | None = None
    failure_count: int | None = None
    open_until: str | None = None


class MessageBusError(InfrastructureError):
    """A message broker failed."""

    code = "MESSAGE_BUS_ERROR"

    operation: str | None = None
    stream: str | None = None
    subject: str | None = None
