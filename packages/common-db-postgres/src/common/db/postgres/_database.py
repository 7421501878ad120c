"""The manager of a PostgreSQL database."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, TypeVarTuple, overload

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import Executable
from sqlalchemy.sql.selectable import TypedReturnsRows

from common.context import check_deadline, operation
from common.db.core import DatabaseConfig, DatabaseManager, Isolation, Tenant, UnitOfWork
from common.db.postgres._config import PostgresConfig
from common.db.postgres._driver import SYSTEM, PostgresDriver
from common.db.postgres._listen import Listener
from common.db.postgres._locks import session_lock
from common.db.postgres._session import PostgresTransaction
from common.errors import ValidationError

Types = TypeVarTuple("Types")


class PostgresDatabase(DatabaseManager):
    """Repositories, transactions and everything else of one PostgreSQL database.

    Args:
        config: Where it is, and limits.
    """

    config_type: ClassVar[type[DatabaseConfig]] = PostgresConfig

    def __init__(self, config: PostgresConfig) -> None:
        driver = PostgresDriver(config)
        super().__init__(driver, config)
        self._postgres = driver

    @asynccontextmanager
    async def session(
        self,
        *,
        tenant: Tenant = None,
        isolation: Isolation | None = None,
        read_only: bool = False,
    ) -> AsyncGenerator[AsyncSession, None]:
        """Open SQLAlchemy's session in a transaction of its own, which commits at the end.

        Statements over entities see neither rows marked as deleted nor those of other tenants;
        statements over tables, and text, see everything. ``commit()`` of the session itself
        changes nothing: leaving the block commits, an error rolls back.

        Args:
            tenant: Whose rows; see `repository`.
            isolation: See `transaction`.
            read_only: See `transaction`.
        """
        async with self.transaction(isolation=isolation, read_only=read_only) as unit:
            yield await orm_session(unit, tenant=tenant)

    @overload
    async def select(
        self, statement: TypedReturnsRows[*Types], *, tenant: Tenant = None
    ) -> Sequence[Row[*Types]]: ...

    @overload
    async def select(
        self, statement: Executable, *, tenant: Tenant = None
    ) -> Sequence[Row[*tuple[Any, ...]]]: ...

    async def select(
        self, statement: Executable, *, tenant: Tenant = None
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """Run a SELECT of SQLAlchemy, which cannot write, and return all its rows.

        It is one round trip, on a replica if there are some. With what might write (text, locks
        of rows, functions other than PostgreSQL's common ones) it runs in a read-only transaction
        on the primary, in which the server refuses to write.

        Args:
            statement: For what the repositories' queries cannot say; see `session`.
            tenant: Whose rows; see `repository`.

        Raises:
            ValidationError: It is no SELECT.
            DatabaseError: It would write; ``error_code`` is 25006.
        """
        if not getattr(statement, "is_select", False):
            raise ValidationError("select() takes a SELECT: write in a transaction or a session")
        self.enter(write=False)
        check_deadline()
        with operation("db", "select", {"db.system.name": SYSTEM}):
            rows = await self._postgres.select(statement, tenant)
            if rows is None:
                async with self.session(tenant=tenant, read_only=True) as session:
                    rows = (await session.execute(statement)).all()
            return rows

    def advisory_lock(
        self, name: str, *, timeout_seconds: float | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold a lock that all processes on this database know by ``name``.

        It takes a connection of the pool while it is held. Should that connection break, the
        lock is gone, so the body is cancelled and `ConnectionLost` raised.

        Args:
            name: Of the lock.
            timeout_seconds: Longest wait; 0 does not wait, by default ``timeout_seconds`` of the
                configuration.

        Raises:
            LockTimeout: Another process holds it.
            UnsupportedOperation: With ``pgbouncer``, where no connection stays with its session;
                use `transaction_lock`.
        """
        return session_lock(self._postgres, name, timeout_seconds)

    def listen(self, *channels: str, queue_size: int = 10_000) -> Listener:
        """Return a listener for NOTIFY on these channels; see `Listener`."""
        return Listener(self._postgres.config, channels, queue_size=queue_size)


async def orm_session(unit: UnitOfWork, *, tenant: Tenant = None) -> AsyncSession:
    """Return SQLAlchemy's session on the transaction of a unit of work.

    Repository calls and the session share one connection and one outcome. The session flushes
    when the unit commits; flush yourself before a repository call that must see its changes.

    Args:
        unit: Of a `PostgresDatabase`.
        tenant: Whose rows statements over entities see.
    """
    return await transaction_of(unit).orm(tenant)


def transaction_of(unit: UnitOfWork) -> PostgresTransaction:
    """Return the transaction of a unit of work.

    Raises:
        ValidationError: It is another backend's.
    """
    session = unit.session
    if not isinstance(session, PostgresTransaction):
        raise ValidationError("this needs a unit of work of a PostgresDatabase")
    return session
