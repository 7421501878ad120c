"""The tables that this service owns, and how they come about."""

from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from common.db.postgres import Base, PostgresConfig, TimestampMixin, VersionMixin, new_metadata
from common.db.postgres.migrations import MigrationManager
from common.domain.calls import CallFailureReason, CallStatus
from common.events.outbox.migrations import OUTBOX_TABLES

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Records(Base):
    """Base of this service's tables."""

    __abstract__ = True
    metadata = new_metadata()


class Call(TimestampMixin, VersionMixin, Records):
    """A call; created when it started, by an id that grows with time (UUIDv7)."""

    __tablename__ = "calls"

    call_id: Mapped[UUID] = mapped_column(primary_key=True)
    phone_number: Mapped[str]
    status: Mapped[CallStatus] = mapped_column(default=CallStatus.INITIATED)
    duration_seconds: Mapped[int | None]
    failure_reason: Mapped[CallFailureReason | None]
    ended_at: Mapped[datetime | None]
    processed_at: Mapped[datetime | None]
    transcript_id: Mapped[UUID | None]


def migrations(config: PostgresConfig) -> MigrationManager:
    """The migrations of this service's schema, the outbox's tables among them."""
    return MigrationManager(config, MIGRATIONS, Records.metadata, ignore_tables=OUTBOX_TABLES)
