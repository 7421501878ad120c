"""Migrations over our own connection and under a lock; see `_alembic` for what they do there."""

import asyncio
import importlib.resources
import random
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from common.context import operation
from common.db.core import LockTimeout, UnsupportedOperation
from common.db.postgres._config import PostgresConfig
from common.db.postgres._connect import dial, milliseconds
from common.db.postgres._driver import SYSTEM
from common.db.postgres._errors import translate
from common.db.postgres._migrations._drift import Drift
from common.db.postgres._migrations._revision import MigrationError, Revision
from common.db.postgres._names import lock_key, quote

if TYPE_CHECKING:
    from common.db.postgres._migrations._alembic import Scripts

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 2.0


class MigrationManager:
    """Makes, applies and undoes migrations, and finds drift.

    Commands that change the database hold an advisory lock: of several replicas that start
    together one migrates, the others wait and find nothing left to do. They run on a direct
    connection, since a pooler in transaction mode cannot keep a lock. A schema in the
    configuration is where unqualified tables and the table of versions go; it is made when
    missing.

    Args:
        config: The database.
        directory: The folder of migrations.
        metadata: The models' tables, for `revision` and `check`.
        lock_timeout_seconds: Longest wait for other replicas' migrations.
        statement_lock_timeout_seconds: Longest wait of a statement for a lock on a table:
            whoever waits longer makes everyone else wait, too.
        ignore_tables: Tables of the database that no model describes, on purpose.

    Raises:
        UnsupportedOperation: With ``pgbouncer``.
    """

    def __init__(
        self,
        config: PostgresConfig,
        directory: Path | str,
        metadata: sa.MetaData | None = None,
        *,
        lock_timeout_seconds: float = 300.0,
        statement_lock_timeout_seconds: float = 30.0,
        ignore_tables: Collection[str] = (),
    ) -> None:
        if config.pgbouncer:
            raise UnsupportedOperation(
                "migrate through a direct connection: a pooler in transaction mode keeps no lock",
                operation="migrate",
                backend="postgresql",
            )
        self._config = config
        self._directory = Path(directory)
        self._metadata = metadata
        self._lock_seconds = lock_timeout_seconds
        self._statement_lock_seconds = statement_lock_timeout_seconds
        self._ignored = frozenset((*ignore_tables, "alembic_version"))

    @cached_property
    def _scripts(self) -> "Scripts":
        # Services name this class where they start; few of their processes migrate.
        from common.db.postgres._migrations._alembic import Scripts  # noqa: PLC0415

        return Scripts(
            self._directory, self._metadata, schema=self._config.schema_name, ignored=self._ignored
        )

    # The folder

    async def init(self) -> Path:
        """Make the folder of migrations, with ``env.py`` and the template of migrations.

        Raises:
            MigrationError: It exists and is not empty.
        """
        return await asyncio.to_thread(self._init)

    def _init(self) -> Path:
        if self._directory.exists() and any(self._directory.iterdir()):
            raise MigrationError(f"{self._directory} is not empty: name another folder")
        (self._directory / "versions").mkdir(parents=True, exist_ok=True)
        template = importlib.resources.files("common.db.postgres") / "_migrations" / "template"
        for source, name in (("env.py.txt", "env.py"), ("script.py.mako", "script.py.mako")):
            (self._directory / name).write_text((template / source).read_text())
        return self._directory

    async def history(self) -> list[Revision]:
        """Return all migrations, oldest first."""
        return await asyncio.to_thread(self._scripts.history)

    # The database

    async def revision(self, message: str, *, autogenerate: bool = True) -> Revision | None:
        """Write a migration; ``None`` when the models equal the database.

        Files are written on the event loop: this is for a developer's machine. Where ruff is
        installed, it mends and formats the file by the project's own settings.

        Args:
            message: What it does; becomes part of its file's name, and its docstring.
            autogenerate: Fill it with what differs between models and database.

        Raises:
            MigrationError: The database lacks migrations that exist already.
        """
        if autogenerate:
            self._models()
        async with self._locked() as connection:
            return await self._run(
                connection,
                lambda sync: self._scripts.revision(sync, message, autogenerate=autogenerate),
            )

    async def upgrade(self, target: str = "head") -> list[str]:
        """Apply migrations up to ``target`` and return the ids of those applied here.

        Migrations that ran are kept when a later one fails: each commits by itself.

        Raises:
            LockTimeout: Another replica's migrations took too long.
            MigrationError: There is no such revision.
        """
        return await self._step(self._scripts.upgrade, target)

    async def downgrade(self, target: str) -> list[str]:
        """Undo migrations down to ``target`` (``"base"``: all) and return their ids."""
        return await self._step(self._scripts.downgrade, target)

    async def _step(
        self, command: Callable[[sa.Connection, str], list[str]], target: str
    ) -> list[str]:
        with operation("db", "migrate", {"db.system.name": SYSTEM}):
            async with self._locked() as connection:
                return await self._run(connection, lambda sync: command(sync, target))

    async def current(self) -> tuple[str, ...]:
        """Return the ids of the migrations that the database is at."""
        async with self._connected() as connection:
            return await self._run(connection, self._scripts.heads)

    async def pending(self) -> list[str]:
        """Return the ids of migrations that are not applied, oldest first.

        For readiness: a replica that starts before the migrations ran has some.
        """
        history = await self.history()
        at = set(await self.current())
        applied: set[str] = set()
        for each in reversed(history):
            if each.id in at or each.id in applied:
                applied |= {each.id, *each.down}
        return [each.id for each in history if each.id not in applied]

    async def check(self) -> list[Drift]:
        """Return what differs between models and database; nothing if all is well.

        Tables, columns, types, nullability, defaults, indexes, and keys and constraints of all
        kinds are compared. The server is asked how it would store a check constraint, in a
        temporary table that is gone afterwards.
        """
        self._models()
        async with self._connected() as connection:
            return await self._run(connection, self._scripts.differences)

    async def ensure_schema(self, name: str) -> None:
        """Make a schema unless it exists.

        Raises:
            ValidationError: The name is empty, longer than 63 bytes, or contains NUL.
        """
        statement = f"CREATE SCHEMA IF NOT EXISTS {quote(name)}"
        async with self._locked() as connection:
            await self._run(connection, lambda sync: sync.exec_driver_sql(statement))
            await connection.commit()

    # How

    def _models(self) -> None:
        if self._metadata is None:
            raise MigrationError(
                "name the models' metadata (common-db: --metadata, or --empty for a revision): "
                "there is nothing to compare with"
            )

    async def _run(self, connection: AsyncConnection, work: Callable[[sa.Connection], T]) -> T:
        def guarded(sync: sa.Connection) -> T:
            try:
                return work(sync)
            except DBAPIError as error:
                cause = error.orig.__cause__ if error.orig is not None else None
                raise translate(cause or error) from error

        return await connection.run_sync(guarded)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[AsyncConnection, None]:
        async with self._connected() as connection:
            # Kept by the session, whose end is the lock's, however it comes.
            await self._lock(connection)
            if self._config.schema_name is not None:
                schema = quote(self._config.schema_name)
                await self._run(
                    connection,
                    lambda sync: sync.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {schema}"),
                )
                await connection.commit()
            yield connection

    async def _lock(self, connection: AsyncConnection) -> None:
        key = lock_key(f"migrations:{self._config.schema_name or ''}")
        take = sa.text("SELECT pg_try_advisory_lock(:key)").bindparams(key=key)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._lock_seconds
        pause = _FIRST_PAUSE
        while True:
            taken = await self._run(connection, lambda sync: sync.execute(take).scalar_one())
            # Not one long wait: its snapshot would block CREATE INDEX CONCURRENTLY, which the
            # holder of the lock may be running, for ever.
            await connection.commit()
            if taken:
                return
            if loop.time() + pause > deadline:
                raise LockTimeout(
                    f"another replica has been migrating for {self._lock_seconds:g} s",
                    timeout_seconds=self._lock_seconds,
                )
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(_MAX_PAUSE, pause * 2)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[AsyncConnection, None]:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=self._connect, poolclass=NullPool
        )
        try:
            async with engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            raise translate(cause or error) from error
        finally:
            await engine.dispose()

    async def _connect(self, **_: Any) -> Any:
        config = self._config
        assert config.url is not None  # noqa: S101 - the configuration requires it
        settings = {
            "application_name": f"{config.application_name} migrations"[:63],
            "lock_timeout": milliseconds(self._statement_lock_seconds),
            "statement_timeout": "0",
            "TimeZone": "UTC",
        }
        if config.schema_name is not None:
            settings["search_path"] = quote(config.schema_name)
        return await dial(
            config.url, seconds=config.connect_timeout_seconds, server_settings=settings
        )
