"""Run by Alembic for every command. Made by ``common-db init``; yours to change.

``common-db`` and `MigrationManager` hand over a connection, metadata and options. With plain
``alembic`` commands the URL comes from ``sqlalchemy.url`` of its configuration, and there is no
lock: migrate with ``common-db``.
"""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

given = context.config.attributes
options: dict[str, Any] = {
    "target_metadata": given.get("metadata"),
    "compare_type": True,
    "compare_server_default": True,
    # Each migration commits by itself, so that one may leave its transaction for
    # CREATE INDEX CONCURRENTLY: `with op.get_context().autocommit_block():`.
    "transaction_per_migration": True,
    **given.get("options", {}),
}


def migrate(connection: Connection) -> None:
    """Run migrations on a connection."""
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_migrate() -> None:
    """Run migrations on a connection of our own."""
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise SystemExit("set sqlalchemy.url, or use common-db")
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
elif (connection := given.get("connection")) is not None:
    migrate(connection)
else:
    asyncio.run(connect_and_migrate())
