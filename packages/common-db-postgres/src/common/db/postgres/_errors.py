"""Turning what asyncpg raises into errors of `common.db.core`, by SQLSTATE."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import asyncpg

from common.db.core import (
    CheckError,
    CommitOutcomeUnknown,
    ConnectionLost,
    Deadlock,
    EntityInfo,
    ForeignKeyError,
    LockTimeout,
    NotNullError,
    SerializationConflict,
    StatementTimeout,
    TooManyConnections,
    UniqueViolationError,
)
from common.db.postgres._names import shorten
from common.errors import AppError, DatabaseError, ValidationError

# PostgreSQL documentation, appendix A: error codes.
_UNIQUE = ("23505", "23P01")
_FOREIGN_KEY = ("23503", "23001")
_GONE = ("57P01", "57P02", "57P03", "57P04", "57P05", "25P03")
_TRANSIENT_CLASSES = ("53", "55", "57", "58", "40", "XX")
_READ_ONLY: Final = "25006"
_FORBIDDEN: Final = "42501"

FOREIGN: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
"""Everything asyncpg lets out that is a failure of the database, or of reaching it."""


def lost(error: BaseException, *, closed: bool = False) -> bool:
    """Tell whether the connection is gone, so that nobody knows what the server did last.

    Args:
        error: What the driver raised.
        closed: Whether the connection is closed now.
    """
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state.startswith("08") or state in _GONE
    if isinstance(error, TimeoutError | asyncpg.DataError):
        return False
    return closed or isinstance(error, OSError | asyncio.IncompleteReadError)


def wrong_server(error: BaseException) -> bool:
    """Tell whether the server became read-only, as after a failover: connect anew."""
    return getattr(error, "sqlstate", None) == _READ_ONLY


def translate(
    error: BaseException,
    *,
    info: EntityInfo[Any] | None = None,
    seconds: float | None = None,
    closed: bool = False,
) -> AppError:
    """Return the error to raise, with ``error`` as its ``__cause__``.

    Only facts that the server sends as such are used: SQLSTATE, constraint and column. Messages
    quote values, so they stay on the cause.

    Args:
        error: What the driver raised.
        info: The entity in question.
        seconds: The time that the statement was given.
        closed: Whether the connection is closed now.
    """
    if isinstance(error, AppError):
        return error
    if isinstance(error, TimeoutError):
        return StatementTimeout(
            "the statement took longer than it was given", timeout_seconds=seconds, cause=error
        )
    state = getattr(error, "sqlstate", None)
    if lost(error, closed=closed):
        return ConnectionLost(
            "the connection to PostgreSQL was lost", error_code=state, cause=error
        )
    if isinstance(error, asyncpg.DataError) and not isinstance(error, asyncpg.PostgresError):
        return ValidationError("a value does not fit the type of its column", cause=error)
    make = _MAKE.get(state or "")
    if make is not None:
        return make(error, info, seconds)
    return _by_class(error, info, state)


def _by_class(error: Any, info: EntityInfo[Any] | None, state: str | None) -> AppError:
    category = (state or "")[:2]
    column = getattr(error, "column_name", None)
    if category in ("22", "54"):
        return ValidationError(
            f"{column or 'a value'} does not fit its column (SQLSTATE {state})",
            field=column,
            cause=error,
        )
    if category == "28":
        message = "PostgreSQL refused the user name or password"
    elif category == "3D":
        message = "the database does not exist"
    elif state == _READ_ONLY:
        message = "the transaction, or the server, is read-only"
    elif state == _FORBIDDEN:
        message = f"the database user may not do this: {error.args[0]}"
    elif category == "42":
        # Names, never values: the statement's values are parameters.
        message = f"the database does not fit the statement, run its migrations: {error.args[0]}"
    elif state is None:
        message = "the driver failed"
    else:
        message = f"PostgreSQL failed with SQLSTATE {state}"
    return DatabaseError(
        message,
        table=getattr(error, "table_name", None) or (info.table if info else None),
        error_code=state,
        retryable=category in _TRANSIENT_CLASSES,
        cause=error,
    )


def _unique(error: Any, info: EntityInfo[Any] | None, _: float | None) -> AppError:
    name, fields = _constraint(error.constraint_name, info)
    return UniqueViolationError(
        f"another {info.name if info else 'row'} has this {', '.join(fields) or name} already",
        constraint=name,
        fields=fields,
        conflicting_resource=info.name if info else error.table_name,
        cause=error,
    )


def _foreign_key(error: Any, info: EntityInfo[Any] | None, _: float | None) -> AppError:
    name, fields = _constraint(error.constraint_name, info)
    return ForeignKeyError(
        f"the row refers to one that does not exist, or is still referred to ({name})",
        constraint=name,
        fields=fields,
        cause=error,
    )


def _check(error: Any, *_: object) -> AppError:
    return CheckError(
        f"the row breaks the constraint {error.constraint_name}",
        constraint=error.constraint_name,
        cause=error,
    )


def _not_null(error: Any, *_: object) -> AppError:
    return NotNullError(
        f"{error.column_name} must not be null", field=error.column_name, cause=error
    )


def _constraint(
    name: str | None, info: EntityInfo[Any] | None
) -> tuple[str | None, tuple[str, ...]]:
    """Return a constraint's name and fields as the entity declares them."""
    if info is None or name is None:
        return name, ()
    if name == shorten(info.primary_key):
        return info.primary_key, info.key
    for unique in info.unique:
        declared = info.constraint_name(unique)
        if shorten(declared) == name:
            return declared, unique.fields
    table = getattr(info.entity, "__table__", None)
    for constraint in getattr(table, "constraints", ()):
        if str(constraint.name) == name:
            return name, tuple(column.key for column in constraint.columns)
    return name, ()


def _timeout(error: Any, _: EntityInfo[Any] | None, seconds: float | None) -> AppError:
    return StatementTimeout(
        "the statement took longer than it was given, or an administrator cancelled it",
        error_code=error.sqlstate,
        timeout_seconds=seconds,
        cause=error,
    )


def _plain(kind: type[DatabaseError], message: str) -> Callable[..., AppError]:
    def make(error: Any, info: EntityInfo[Any] | None, _: float | None) -> AppError:
        table = info.table if info else None
        return kind(message, error_code=error.sqlstate, table=table, cause=error)

    return make


_MAKE: Final[Mapping[str, Callable[[Any, EntityInfo[Any] | None, float | None], AppError]]] = {
    **dict.fromkeys(_UNIQUE, _unique),
    **dict.fromkeys(_FOREIGN_KEY, _foreign_key),
    "23514": _check,
    "23502": _not_null,
    "40001": _plain(SerializationConflict, "a concurrent transaction won: run it again"),
    "40P01": _plain(Deadlock, "ended to resolve a deadlock: run it again"),
    "40003": _plain(CommitOutcomeUnknown, "the server does not know whether it was stored"),
    "55P03": _plain(LockTimeout, "a lock did not become free in time"),
    "57014": _timeout,
    "25P04": _timeout,
    "53300": _plain(TooManyConnections, "PostgreSQL takes no further connection"),
}
