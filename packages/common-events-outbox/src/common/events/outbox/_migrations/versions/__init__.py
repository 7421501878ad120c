"""Alembic's folder of this package's migrations."""
