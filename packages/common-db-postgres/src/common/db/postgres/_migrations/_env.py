"""What ``env.py`` of a folder of migrations does."""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from common.db.postgres._migrations._revision import MigrationError


def run_env(**options: Any) -> None:
    """Run migrations as Alembic asks for them; the one call of ``env.py``.

    `MigrationManager` and ``common-db`` hand over a connection, metadata and options. With plain
    ``alembic`` commands the URL comes from ``sqlalchemy.url`` of its configuration, and there is
    no lock: migrate with ``common-db``. Where Alembic did not load ``env.py``, as when a test
    runner imports it, this does nothing.

    Args:
        options: For Alembic's ``EnvironmentContext.configure()``, over what is handed over.

    Raises:
        MigrationError: There is neither a connection nor a URL.
    """
    from alembic import context  # noqa: PLC0415 - see `MigrationManager`

    config = getattr(context, "config", None)  # there while Alembic runs a command
    if config is None:
        return
    given = config.attributes
    options = {
        "target_metadata": given.get("metadata"),
        "compare_type": True,
        "compare_server_default": True,
        # Each migration commits by itself, so that one may leave its transaction for
        # CREATE INDEX CONCURRENTLY: `with op.get_context().autocommit_block():`.
        "transaction_per_migration": True,
        **given.get("options", {}),
        **options,
    }
    if context.is_offline_mode():
        _migrate(dialect_name="postgresql", literal_binds=True, **options)
    elif (connection := given.get("connection")) is not None:
        _migrate(connection=connection, **options)
    else:
        asyncio.run(_connect_and_migrate(options))


def _migrate(**options: Any) -> None:
    from alembic import context  # noqa: PLC0415

    context.configure(**options)
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_migrate(options: dict[str, Any]) -> None:
    from alembic import context  # noqa: PLC0415

    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise MigrationError("set sqlalchemy.url, or use common-db")
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: _migrate(connection=sync, **options))
            await connection.commit()
    finally:
        await engine.dispose()
