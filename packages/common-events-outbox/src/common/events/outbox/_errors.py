"""What goes wrong between a service, its outbox and the database."""

from common.db.core import CommitOutcomeUnknown
from common.errors import AppError, DatabaseError, is_retryable

_MISSING = ("42P01", "42703", "42883", "3F000")
"""PostgreSQL's undefined_table, undefined_column, undefined_function, invalid_schema_name."""


_READ_ONLY = "25006"
"""read_only_sql_transaction: the server has become a standby, and is replaced."""


class OutboxNotMigrated(DatabaseError):  # noqa: N818 - says what is
    """The database lacks the tables of this package, or has those of another version."""

    code = "OUTBOX_NOT_MIGRATED"
    status = 500
    retryable = False


def explained(error: AppError) -> AppError:
    """Return an error that says what to do when tables are missing, else the error itself."""
    if getattr(error, "error_code", None) not in _MISSING:
        return error
    cause = error.__cause__
    missing = str(cause.args[0]) if cause is not None and cause.args else "a table is missing"
    return OutboxNotMigrated(
        f"{missing}: migrate this database, by `common-outbox migrate` or, if a revision of the "
        "service calls `upgrade_outbox`, by the service's own migrations; or name the database "
        "and schema in which the services write",
        error_code=getattr(error, "error_code", None),
        cause=error,
    )


def passes(error: Exception) -> bool:
    """Tell whether a failure of the database is worth waiting for.

    All that is repeated after one bears being done twice.
    """
    if isinstance(error, CommitOutcomeUnknown) or is_retryable(error):
        return True
    return getattr(error, "error_code", None) == _READ_ONLY
