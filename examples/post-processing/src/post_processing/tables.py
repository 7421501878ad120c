"""The tables that this worker owns, and how they come about."""

from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from common.context import new_id
from common.db.postgres import Base, PostgresConfig, TimestampMixin, new_metadata
from common.db.postgres.migrations import MigrationManager
from common.events.outbox.migrations import OUTBOX_TABLES

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Records(Base):
    """Base of this worker's tables."""

    __abstract__ = True
    metadata = new_metadata()


class Transcript(TimestampMixin, Records):
    """What was made of a call.

    Not unique by call, on purpose: an effect that was applied twice shows as a second row.
    """

    __tablename__ = "transcripts"

    session_id: Mapped[UUID] = mapped_column(primary_key=True, default=lambda: UUID(new_id()))
    call_id: Mapped[UUID] = mapped_column(index=True)
    processing_status: Mapped[str]


def migrations(config: PostgresConfig) -> MigrationManager:
    """The migrations of this worker's schema, the tables of outbox and inbox among them."""
    return MigrationManager(config, MIGRATIONS, Records.metadata, ignore_tables=OUTBOX_TABLES)
