"""Migrations: Alembic on the same configuration, run once however many replicas start.

``common-db`` is the command around it.
"""

from common.db.postgres._migrations._drift import Drift
from common.db.postgres._migrations._manager import MigrationError, MigrationManager, Revision

__all__ = ["Drift", "MigrationError", "MigrationManager", "Revision"]
