"""Alembic, driven over our own connection and under a lock."""

import argparse
import asyncio
import importlib.resources
import random
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import alembic.command
import alembic.util
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from common.context import operation
from common.db.core import LockTimeout, UnsupportedOperation
from common.db.postgres._config import PostgresConfig
from common.db.postgres._connect import dial, milliseconds
from common.db.postgres._driver import SYSTEM
from common.db.postgres._errors import translate
from common.db.postgres._migrations._constraints import constraint_changes
from common.db.postgres._migrations._drift import Drift, drifts
from common.db.postgres._names import lock_key, quote
from common.errors import DatabaseError

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 2.0


class MigrationError(DatabaseError):
    """A migration, or the folder of migrations, is not as it should be."""

    code = "DB_MIGRATION"
    status = 500
    retryable = False


@dataclass(frozen=True)
class Revision:
    """One migration.

    Args:
        id: Its id.
        message: What it does.
        down: Ids of those before it.
        path: Its file.
    """

    id: str
    message: str
    down: tuple[str, ...]
    path: Path


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
        return await asyncio.to_thread(lambda: self._guarded(self._history))

    def _history(self) -> list[Revision]:
        scripts = ScriptDirectory.from_config(self._alembic())
        return [_revision(each) for each in scripts.walk_revisions()][::-1]

    # The database

    async def revision(self, message: str, *, autogenerate: bool = True) -> Revision | None:
        """Write a migration; ``None`` when the models equal the database.

        Files are written on the event loop: this is for a developer's machine.

        Args:
            message: What it does; becomes part of its file's name.
            autogenerate: Fill it with what differs between models and database.

        Raises:
            MigrationError: The database lacks migrations that exist already.
        """
        empty: list[bool] = []
        if autogenerate:
            self._models()

        def complete(context: MigrationContext, _: Any, directives: list[Any]) -> None:
            if not autogenerate:
                return
            script = directives[0]
            connection = context.connection
            assert connection is not None  # noqa: S101 - offline mode compares nothing
            changes = list(constraint_changes(connection, self._models()))
            script.upgrade_ops.ops.extend(changes)
            script.downgrade_ops.ops[:0] = [each.reverse() for each in reversed(changes)]
            if script.upgrade_ops.is_empty():
                empty.append(True)
                directives[:] = []

        def write(connection: sa.Connection) -> Any:
            config = self._alembic(connection)
            return alembic.command.revision(
                config, message, autogenerate=autogenerate, process_revision_directives=complete
            )

        async with self._locked() as connection:
            script = await self._run(connection, write)
        return None if empty or script is None else _revision(script)

    async def upgrade(self, target: str = "head") -> list[str]:
        """Apply migrations up to ``target`` and return the ids of those applied here.

        Migrations that ran are kept when a later one fails: each commits by itself.

        Raises:
            LockTimeout: Another replica's migrations took too long.
            MigrationError: There is no such revision.
        """
        return await self._step(alembic.command.upgrade, target)

    async def downgrade(self, target: str) -> list[str]:
        """Undo migrations down to ``target`` (``"base"``: all) and return their ids."""
        return await self._step(alembic.command.downgrade, target)

    async def _step(self, command: Callable[[Config, str], None], target: str) -> list[str]:
        applied: list[str] = []

        def note(*, step: Any, **_: Any) -> None:
            applied.extend(step.up_revision_ids)

        with operation("db", "migrate", {"db.system.name": SYSTEM}):
            async with self._locked() as connection:
                await self._run(
                    connection,
                    lambda sync: command(self._alembic(sync, on_version_apply=note), target),
                )
        return applied

    async def current(self) -> tuple[str, ...]:
        """Return the ids of the migrations that the database is at."""
        async with self._connected() as connection:
            return await self._run(
                connection, lambda sync: tuple(self._context(sync).get_current_heads())
            )

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
        models = self._models()

        def compare(connection: sa.Connection) -> list[Drift]:
            produced = produce_migrations(self._context(connection), models)
            operations = produced.upgrade_ops
            found = [] if operations is None else list(drifts(operations.as_diffs()))
            changes = constraint_changes(connection, models)
            return found + list(drifts([each.to_diff_tuple() for each in changes]))

        async with self._connected() as connection:
            return await self._run(connection, compare)

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

    def _models(self) -> sa.MetaData:
        if self._metadata is None:
            raise MigrationError(
                "name the models' metadata (common-db: --metadata, or --empty for a revision): "
                "there is nothing to compare with"
            )
        return self._metadata

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "compare_type": True,
            "compare_server_default": True,
            "include_object": self._included,
        }
        if self._config.schema_name is not None:
            options["version_table_schema"] = self._config.schema_name
        return options

    def _included(self, *facts: Any) -> bool:
        _, name, kind, reflected, counterpart = facts
        forgotten = kind == "table" and reflected and counterpart is None
        return not (forgotten and name in self._ignored)

    def _context(self, connection: sa.Connection) -> MigrationContext:
        options = {**self._options(), "target_metadata": self._metadata}
        return MigrationContext.configure(connection, opts=options)

    def _alembic(self, connection: sa.Connection | None = None, **options: Any) -> Config:
        config = Config(cmd_opts=argparse.Namespace(quiet=True))
        config.set_main_option("script_location", str(self._directory).replace("%", "%%"))
        config.attributes["connection"] = connection
        config.attributes["metadata"] = self._metadata
        config.attributes["options"] = {**self._options(), **options}
        return config

    async def _run(self, connection: AsyncConnection, work: Callable[[sa.Connection], T]) -> T:
        return await connection.run_sync(lambda sync: self._guarded(lambda: work(sync)))

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except alembic.util.CommandError as error:
            raise MigrationError(_sentence(error), cause=error) from error
        except DBAPIError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            raise translate(cause or error) from error

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


def _revision(script: Any) -> Revision:
    down: Sequence[str] | str | None = script.down_revision
    before = (down,) if isinstance(down, str) else tuple(down or ())
    return Revision(script.revision, script.doc, before, Path(script.path))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
