"""Error hierarchy with stable codes, retryability, and mapping of foreign exceptions."""

from common.errors._base import AppError, DomainError, InfrastructureError, InternalError
from common.errors._domain import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
    ValidationError,
)
from common.errors._fields import field
from common.errors._http import classify_http, parse_retry_after
from common.errors._infrastructure import (
    CircuitOpenError,
    DatabaseError,
    MessageBusError,
    RedisError,
    RequestTimeoutError,
    S3Error,
    ServiceUnavailableError,
    UpstreamServiceError,
)
from common.errors._json import JsonValue, json_safe
from common.errors._mapping import map_errors, wrap
from common.errors._retry import is_retryable

__all__ = [
    # The root and its branches
    "AppError",
    "DomainError",
    "InfrastructureError",
    "InternalError",
    # Domain errors
    "ConflictError",
    "ForbiddenError",
    "NotFoundError",
    "RateLimitedError",
    "UnauthorizedError",
    "ValidationError",
    # Infrastructure errors
    "CircuitOpenError",
    "DatabaseError",
    "MessageBusError",
    "RedisError",
    "RequestTimeoutError",
    "S3Error",
    "ServiceUnavailableError",
    "UpstreamServiceError",
    # Declaring errors
    "JsonValue",
    "field",
    "json_safe",
    # Foreign errors
    "classify_http",
    "is_retryable",
    "map_errors",
    "parse_retry_after",
    "wrap",
]
