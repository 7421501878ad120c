"""SQLAlchemy on the connections of our pool."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from sqlalchemy import Row, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Executable

from common.db.core import Tenant
from common.db.postgres._connect import Connection
from common.db.postgres._criteria import check_flush, require_tenant, restrict
from common.db.postgres._errors import FOREIGN, translate
from common.db.postgres._reading import (
    READING,
    Columns,
    MayWrite,
    ReadingCompiler,
    ReadingLoan,
    refuse_writes,
)
from common.db.postgres._session import TENANT
from common.errors import AppError

_lent: Final[ContextVar[Any]] = ContextVar("common.db.postgres.lent")


class _Loan:
    """A connection that SQLAlchemy may use and close; closing leaves it open."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def close(self, **_: object) -> None:
        """Leave the connection to its owner."""

    def terminate(self) -> None:
        """End the connection: SQLAlchemy found it broken."""
        self._connection.terminate()


class Lease:
    """SQLAlchemy's session on one of our connections, for a while."""

    __slots__ = ("_connection", "session")

    def __init__(self, connection: AsyncConnection, session: AsyncSession) -> None:
        self._connection = connection
        self.session = session

    async def flush(self) -> None:
        """Send what the session holds back."""
        await self.session.flush()

    async def close(self) -> None:
        """Forget everything; the connection stays as it is."""
        await self.session.close()
        await self._connection.close()


class Bridge:
    """Makes sessions; SQLAlchemy neither pools nor begins or ends transactions here.

    Args:
        named: Whether prepared statements may have names; not with poolers.
        schema: Schema of tables that name none.
    """

    def __init__(self, *, named: bool, schema: str | None) -> None:
        self._named = named
        self._schema = schema
        self._engine: AsyncEngine | None = None
        self._columns = Columns()

    async def lease(self, connection: Connection) -> Lease:
        """Return a session on ``connection``, whose owner begins and ends the transaction."""
        return await self._lease(_Loan(connection))

    async def select(
        self, connection: Connection, seconds: float | None, statement: Executable, tenant: Tenant
    ) -> Sequence[Row[*tuple[Any, ...]]] | None:
        """Run a SELECT in a round trip; ``None`` when it needs a read-only transaction.

        Errors of the driver come out as they are, as from other calls on a connection.
        """
        loan = ReadingLoan(connection, self._columns, seconds)
        try:
            lease = await self._lease(loan, **{READING: True})
            try:
                lease.session.info[TENANT] = tenant
                return (await lease.session.execute(statement)).all()
            finally:
                await lease.close()
        except MayWrite:
            return None
        except AppError as error:
            raise _driver_error(error) or error from None

    async def _lease(self, loan: Any, **options: Any) -> Lease:
        token = _lent.set(loan)
        try:
            borrowed = await self._get_engine().connect()
        finally:
            _lent.reset(token)
        await borrowed.execution_options(**options)
        session = AsyncSession(borrowed, expire_on_commit=False)
        event.listen(session.sync_session, "do_orm_execute", restrict)
        event.listen(session.sync_session, "before_flush", check_flush)
        return Lease(borrowed, session)

    def _get_engine(self) -> AsyncEngine:
        if self._engine is None:
            arguments: dict[str, Any] = {}
            if not self._named:
                arguments["prepared_statement_name_func"] = str
                arguments["prepared_statement_cache_size"] = 0
            self._engine = create_async_engine(
                "postgresql+asyncpg://",
                async_creator=_borrow,
                poolclass=NullPool,
                isolation_level="AUTOCOMMIT",
                connect_args=arguments,
                execution_options=(
                    {"schema_translate_map": {None: self._schema}} if self._schema else {}
                ),
            )
            dialect: Any = self._engine.dialect
            # Our connections have these codecs already; setting them costs two round trips.
            dialect.setup_asyncpg_json_codec = _nothing
            dialect.setup_asyncpg_jsonb_codec = _nothing
            dialect.statement_compiler = ReadingCompiler
            for check in (require_tenant, refuse_writes):
                event.listen(self._engine.sync_engine, "before_cursor_execute", check)
            event.listen(self._engine.sync_engine, "handle_error", _translate)
        return self._engine


async def _borrow(**_: Any) -> Any:
    return _lent.get()


async def _nothing(connection: Any) -> None:
    """Stand in for what is done already."""


def _translate(context: ExceptionContext) -> None:
    """Raise our own error in place of SQLAlchemy's."""
    error = context.original_exception
    if isinstance(error, AppError):
        raise error
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if isinstance(context.sqlalchemy_exception, DBAPIError) or cause is not error:
        raise translate(cause) from cause


def _driver_error(error: BaseException) -> BaseException | None:
    """Return what asyncpg raised, below what SQLAlchemy made of it."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, FOREIGN):
        # SQLAlchemy lets an error that it does not know be its own cause.
        cause = None if cause is cause.__cause__ else cause.__cause__
    return cause
