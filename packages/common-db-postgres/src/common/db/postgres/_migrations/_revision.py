"""What a migration is, and what can be wrong with it."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import DatabaseError


class MigrationError(DatabaseError):
    """A migration, or the folder of migrations, is not as it should be."""

    code = "DB_MIGRATION"
    status = 500
    retryable = False


@dataclass(frozen=True)
class Revision:
    """One migration.

    Args:
        id: Its id.
        message: What it does.
        down: Ids of those before it.
        path: Its file.
    """

    id: str
    message: str
    down: tuple[str, ...]
    path: Path
