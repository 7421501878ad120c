"""PostgreSQL repositories on SQLAlchemy and asyncpg, with migrations."""

from common.db.postgres._base import (
    Base,
    SoftDeleteMixin,
    TenantMixin,
    TimestampMixin,
    VersionMixin,
)
from common.db.postgres._config import PostgresConfig
from common.db.postgres._database import PostgresDatabase, orm_session
from common.db.postgres._driver import PostgresDriver
from common.db.postgres._listen import Event, Gap, Listener, Notification, notify
from common.db.postgres._locks import transaction_lock
from common.db.postgres._session import PostgresTransaction
from common.db.postgres._table import NAMING_CONVENTION, new_metadata, table_for

__all__ = [
    # Opening a database
    "PostgresConfig",
    "PostgresDatabase",
    "PostgresDriver",
    "PostgresTransaction",
    "orm_session",
    # Mapped classes and tables
    "Base",
    "NAMING_CONVENTION",
    "SoftDeleteMixin",
    "TenantMixin",
    "TimestampMixin",
    "VersionMixin",
    "new_metadata",
    "table_for",
    # Locks and notifications
    "Event",
    "Gap",
    "Listener",
    "Notification",
    "notify",
    "transaction_lock",
]
