"""Errors that any backend may raise. The driver's own exception is the ``__cause__``."""

from common.errors import (
    AppError,
    ConflictError,
    DatabaseError,
    DomainError,
    ForbiddenError,
    ValidationError,
)

# Misuse and bad input


class EntityDefinitionError(AppError):
    """A class cannot be stored as it is declared."""

    code = "DB_ENTITY_DEFINITION"

    entity: str | None = None


class BackendNotFoundError(AppError):
    """No installed distribution provides the backend; the message names the one to install."""

    code = "DB_BACKEND_NOT_FOUND"

    backend: str | None = None
    distribution: str | None = None


class SessionStateError(AppError):
    """A manager or unit of work was used while it could not be.

    Args:
        message: See `AppError`.
        state: ``"not open"``, ``"closed"``, ``"busy"`` (another task is using the unit of work)
            or ``"failed"`` (an earlier error rolled it back).
    """

    code = "DB_SESSION_STATE"

    state: str | None = None


class UnknownFieldError(ValidationError):
    """A query, a change or a tenant names a field that the entity does not have."""

    code = "DB_UNKNOWN_FIELD"

    entity: str | None = None
    suggestion: str | None = None


class InvalidCursorError(ValidationError):
    """A cursor was tampered with, is malformed, or belongs to another query.

    Args:
        message: See `AppError`.
        reason: ``"format"``, ``"signature"`` or ``"query"``.
    """

    code = "DB_INVALID_CURSOR"

    reason: str | None = None


class TenantRequiredError(ValidationError):
    """An entity with tenant fields was used without saying for which tenant."""

    code = "DB_TENANT_REQUIRED"

    entity: str | None = None


class TenantMismatchError(ForbiddenError):
    """An entity carries another tenant's value than its repository is bound to."""

    code = "DB_TENANT_MISMATCH"

    entity: str | None = None


class UnsupportedQuery(DomainError):  # noqa: N818 - named by the contract
    """A backend cannot judge a part of a query, and so returns nothing at all.

    Args:
        message: See `AppError`.
        node: Name of the node's class, such as ``"Contains"``.
        backend: The backend's name.
    """

    code = "DB_UNSUPPORTED_QUERY"

    node: str | None = None
    backend: str | None = None


class UnsupportedOperation(DomainError):  # noqa: N818
    """A backend lacks a capability, such as transactions over several partitions."""

    code = "DB_UNSUPPORTED_OPERATION"

    operation: str | None = None
    backend: str | None = None


# Conflicts with what is stored


class StaleVersionError(ConflictError):
    """The row changed since it was read: read it again, decide again.

    Args:
        message: See `AppError`.
        expected: The version the caller expected.
        actual: The version that is stored; ``None`` when the row is gone or it is not known.
    """

    code = "DB_STALE_VERSION"

    expected: int | str | None = None
    actual: int | str | None = None


class UniqueViolationError(ConflictError):
    """Another row has these values already.

    Args:
        message: See `AppError`.
        constraint: Name of the constraint; ``pk_<table>`` for the primary key.
        fields: Names of its fields.
    """

    code = "DB_UNIQUE_VIOLATION"

    constraint: str | None = None
    fields: tuple[str, ...] = ()


class ForeignKeyError(ConflictError):
    """A row refers to one that does not exist, or is still referred to."""

    code = "DB_FOREIGN_KEY_VIOLATION"

    constraint: str | None = None
    fields: tuple[str, ...] = ()


class CheckError(ValidationError):
    """A row breaks a check constraint."""

    code = "DB_CHECK_VIOLATION"

    constraint: str | None = None


class NotNullError(ValidationError):
    """A row lacks a value that its table requires."""

    code = "DB_NOT_NULL_VIOLATION"


# Failures of the database


class SerializationConflict(DatabaseError):  # noqa: N818
    """A concurrent transaction won (SQLSTATE 40001); running all of it again may succeed."""

    code = "DB_SERIALIZATION_CONFLICT"


class Deadlock(SerializationConflict):
    """Transactions wait for each other, this one was ended (SQLSTATE 40P01)."""

    code = "DB_DEADLOCK"


class CommitOutcomeUnknown(DatabaseError):  # noqa: N818
    """The connection was lost during COMMIT: the changes are stored, or they are not."""

    code = "DB_COMMIT_OUTCOME_UNKNOWN"
    retryable = False


class ConnectionLost(DatabaseError):  # noqa: N818
    """The connection broke, or could not be made."""

    code = "DB_CONNECTION_LOST"


class PoolTimeout(DatabaseError):  # noqa: N818
    """No connection of the pool became free in time."""

    code = "DB_POOL_TIMEOUT"

    timeout_seconds: float | None = None


class TooManyConnections(DatabaseError):  # noqa: N818
    """The server takes no further connection (SQLSTATE 53300)."""

    code = "DB_TOO_MANY_CONNECTIONS"


class StatementTimeout(DatabaseError):  # noqa: N818
    """A statement took longer than it was given (SQLSTATE 57014)."""

    code = "DB_STATEMENT_TIMEOUT"
    status = 504

    timeout_seconds: float | None = None


class LockTimeout(DatabaseError):  # noqa: N818
    """A lock that another transaction holds did not become free in time (SQLSTATE 55P03)."""

    code = "DB_LOCK_TIMEOUT"

    timeout_seconds: float | None = None


class StoredDataError(DatabaseError):
    """What is stored does not fit the entity's declaration."""

    code = "DB_STORED_DATA"
    status = 500
    retryable = False
