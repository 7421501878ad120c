"""Migrations of the tables: by themselves, or as part of a service's own.

`OutboxMigrations` keeps a table of versions of its own, so that it gets along with a service's
migrations in one database; ``common-outbox migrate`` is the command around it. A service that
wants one history calls `upgrade_outbox` in a revision of its own instead, and tells ``common-db
check`` of the tables: ``ignore_tables=OUTBOX_TABLES``. The command knows such tables, and leaves
them alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from common.db.postgres import PostgresConfig, PostgresDatabase
from common.db.postgres.migrations import MigrationError, MigrationManager
from common.errors import AppError, ValidationError
from common.events.outbox._errors import OutboxNotMigrated, explained
from common.events.outbox._schema import (
    DOWNGRADES,
    SIGNS,
    TABLES,
    UPGRADES,
    VERSION_TABLE,
    names_in,
)
from common.events.outbox._sql import Record, fetch

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

    Tables that a service's own migrations made count as applied, and stay theirs.

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
        """Return the ids of the migrations that the database is at, whoever applied them."""
        written, seen = await self._found()
        return written or seen

    async def upgrade(self, target: str = "head") -> list[str]:
        """Apply migrations up to ``target`` and return the ids of those applied here.

        Raises:
            LockTimeout: Another replica's migrations took too long.
            MigrationError: There is no such revision; or a service's own migrations made the
                tables, and lack a revision.
        """
        written, seen = await self._found()
        if written or not seen:
            return await super().upgrade(target)
        if missing := await self.pending():
            raise MigrationError(
                "a service's own migrations made these tables: there, call "
                + ", ".join(f'upgrade_outbox(op, "{each}")' for each in missing)
                + " in a new revision"
            )
        return []

    async def _found(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what the table of versions tells, and what the tables themselves do.

        They are looked at first: whoever migrates meanwhile writes the version along with them.
        """
        names = names_in(self._database.schema_name)
        seen: tuple[str, ...] = ()
        async with PostgresDatabase(self._database) as database:
            for revision, sign in SIGNS.items():
                if await _rows(database, names.sql(sign)) is None:
                    break
                seen = (revision,)
            rows = await _rows(database, names.sql(_CURRENT))
        return tuple(row[0] for row in rows or ()), seen


async def _rows(database: PostgresDatabase, sql: str) -> Sequence[Record] | None:
    try:
        return await fetch(database, "select", VERSION_TABLE, sql)
    except AppError as error:
        if isinstance(explained(error), OutboxNotMigrated):
            return None
        raise


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
