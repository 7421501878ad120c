"""Run by Alembic for every command. Made by ``common-db init``; yours to change."""

from common.db.postgres.migrations import run_env

run_env()
