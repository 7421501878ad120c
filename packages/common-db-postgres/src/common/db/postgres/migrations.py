"""Migrations: Alembic on the same configuration, run once however many replicas start.

``common-db`` is the command around it. Alembic is loaded when a migration runs, not before.
"""

from common.db.postgres._migrations._drift import Drift
from common.db.postgres._migrations._env import run_env
from common.db.postgres._migrations._manager import MigrationManager
from common.db.postgres._migrations._revision import MigrationError, Revision

__all__ = ["Drift", "MigrationError", "MigrationManager", "Revision", "run_env"]
