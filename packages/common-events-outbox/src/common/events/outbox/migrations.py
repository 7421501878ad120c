"""Migrations of the tables: by themselves, or as part of a service's own.

`OutboxMigrations` keeps a table of versions of its own, so that it gets along with a service's
migrations in one database; ``common-outbox migrate`` is the command around it. A service that
wants one history calls `upgrade_outbox` in a revision of its own, and tells ``common-db check`` of
the tables: ``ignore_tables=OUTBOX_TABLES``.
"""

from pathlib import Path
from typing import Any, Final, Protocol

from common.db.postgres import PostgresConfig, PostgresDatabase
from common.db.postgres.migrations import MigrationManager
from common.errors import AppError, ValidationError
from common.events.outbox._errors import OutboxNotMigrated, explained
from common.events.outbox._schema import DOWNGRADES, TABLES, UPGRADES, VERSION_TABLE, names_in
from common.events.outbox._sql import fetch

_CURRENT: Final = "SELECT version_num FROM {versions}"

OUTBOX_TABLES: Final = (*TABLES, VERSION_TABLE)
"""Names of all tables of this package."""


class Operations(Protocol):
    """Alembic's ``op``."""

    def execute(self, sqltext: Any, /) -> None:
        """Run a statement."""
        ...


class OutboxMigrations(MigrationManager):
    """Makes and updates the tables of outbox and inbox; safe in every replica's start.

    Args:
        config: The database; its ``schema_name`` is where the tables go.
        lock_timeout_seconds: Longest wait for other replicas' migrations.

    Raises:
        UnsupportedOperation: With ``pgbouncer``.
    """

    def __init__(self, config: PostgresConfig, *, lock_timeout_seconds: float = 300.0) -> None:
        super().__init__(
            config,
            Path(__file__).parent / "_migrations",
            lock_timeout_seconds=lock_timeout_seconds,
        )

        self._database = config

    async def current(self) -> tuple[str, ...]:
        """Return the ids of the migrations that the database is at."""
        names = names_in(self._database.schema_name)
        async with PostgresDatabase(self._database) as database:
            try:
                rows = await fetch(database, "select", VERSION_TABLE, names.sql(_CURRENT))
            except AppError as error:
                if isinstance(explained(error), OutboxNotMigrated):
                    return ()
                raise
        return tuple(row[0] for row in rows)


def upgrade_outbox(op: Operations, revision: str) -> None:
    """Apply one revision of the tables; for a migration of a service's own.

    Args:
        op: ``alembic.op``.
        revision: Such as ``"0001"``; each in a migration of its own, in their order.

    Raises:
        ValidationError: There is no such revision.
    """
    _run(op, UPGRADES, revision)


def downgrade_outbox(op: Operations, revision: str) -> None:
    """Undo one revision of the tables: what is not yet published is lost."""
    _run(op, DOWNGRADES, revision)


def _run(op: Operations, steps: dict[str, tuple[str, ...]], revision: str) -> None:
    if revision not in steps:
        raise ValidationError(f"no revision {revision!r}: there are {', '.join(steps)}")
    for statement in steps[revision]:
        op.execute(statement)


__all__ = [
    # A history of their own
    "OutboxMigrations",
    # Within a service's history
    "OUTBOX_TABLES",
    "Operations",
    "VERSION_TABLE",
    "downgrade_outbox",
    "upgrade_outbox",
]
