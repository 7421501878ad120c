"""Run by Alembic for every command of `OutboxMigrations`; imported by itself it does nothing."""

from common.db.postgres.migrations import run_env
from common.events.outbox.migrations import VERSION_TABLE

run_env(version_table=VERSION_TABLE)
