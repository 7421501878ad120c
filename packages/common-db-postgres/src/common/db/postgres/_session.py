"""Sessions: each call by itself, or all of them in one transaction."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from common.context import shielded
from common.db.core import (
    CommitOutcomeUnknown,
    EntityInfo,
    Isolation,
    Row,
    Select,
    StatementTimeout,
    Tenant,
    TransactionSession,
)
from common.db.postgres._connect import Connection, milliseconds
from common.db.postgres._errors import FOREIGN, lost, translate
from common.db.postgres._pool import Pool, Slot, time_left
from common.db.postgres._replicas import UNREACHABLE, Replicas
from common.db.postgres._statements import Call, Layouts, Statements
from common.errors import DatabaseError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from common.db.postgres._bridge import Bridge, Lease

T = TypeVar("T")

_END_SECONDS: Final = 5.0

TENANT: Final = "common_tenant"
"""Where SQLAlchemy's session keeps whose rows it may see."""


class AutocommitSession(Statements):
    """Each call takes effect by itself; a read is one round trip."""

    def __init__(self, layouts: Layouts, pool: Pool, replicas: Replicas, *, seconds: float) -> None:
        super().__init__(layouts)
        self._pool = pool
        self._replicas = replicas
        self._seconds = seconds

    async def run(
        self, call: Call[T], *, info: EntityInfo[Any] | None = None, writes: bool = False
    ) -> T:
        """Run one statement; a read whose connection breaks is run once more."""
        if self._replicas and not writes and (found := await self._replicas.read(call)) is not None:
            return found[0]
        try:
            return await self._once(call, info, writes=writes)
        except _Again:
            return await self._once(call, info, writes=writes, again=False)
        finally:
            if writes and self._replicas:
                self._replicas.wrote()

    async def _once(
        self, call: Call[T], info: EntityInfo[Any] | None, *, writes: bool, again: bool = True
    ) -> T:
        pool = self._pool
        slot = pool.take() or await pool.acquire()
        seconds = time_left()
        try:
            result = await call(slot.connection, seconds)
        except FOREIGN as error:
            gone = pool.settle(slot, error)
            if writes and (gone or isinstance(error, TimeoutError)):
                why = "the connection was lost" if gone else "time was up"
                raise CommitOutcomeUnknown(
                    f"{why} while the server was writing: it is stored, or it is not",
                    error_code=getattr(error, "sqlstate", None),
                    table=info.table if info else None,
                    cause=error,
                ) from error
            if gone and again:
                raise _Again from error
            raise translate(
                error, info=info, seconds=seconds or self._seconds, closed=gone
            ) from error
        except BaseException:
            if writes:
                # Whoever looks after a cancelled write must not see it come true later.
                await shielded(pool.clean(slot))
            else:
                pool.recycle(slot)
            raise
        pool.release(slot)
        return result

    @asynccontextmanager
    async def atomic(self) -> AsyncGenerator[Statements, None]:
        """Open a transaction for several statements."""
        session = await begin(self._pool, self.layout, seconds=self._seconds)
        try:
            yield session
        except BaseException:
            await shielded(session.rollback())
            raise
        try:
            await shielded(session.commit())
        finally:
            if self._replicas:
                self._replicas.wrote()

    async def stream(
        self, info: EntityInfo[Any], select: Select, batch: int
    ) -> AsyncGenerator[Sequence[Row], None]:
        """Yield rows from a cursor, in a read-only transaction of its own."""
        session = await self._begin_reading()
        try:
            async with aclosing(session.stream(info, select, batch)) as batches:
                async for rows in batches:
                    yield rows
        finally:
            session.abandon()

    async def _begin_reading(self) -> "PostgresTransaction":
        replica = self._replicas.choose() if self._replicas else None
        if replica is not None:
            try:
                return await begin(replica, self.layout, read_only=True, seconds=self._seconds)
            except UNREACHABLE:
                self._replicas.avoid(replica)
            except StatementTimeout as error:
                if not self._replicas.fell_silent(replica, error):
                    raise
        return await begin(self._pool, self.layout, read_only=True, seconds=self._seconds)


class PooledSession(AutocommitSession):
    """For poolers in transaction mode, where only a transaction keeps its connection."""

    async def _once(
        self, call: Call[T], info: EntityInfo[Any] | None, *, writes: bool, again: bool = True
    ) -> T:
        session = await begin(
            self._pool, self.layout, read_only=not writes, seconds=self._seconds, local=True
        )
        try:
            result = await session.run(call, info=info, writes=writes)
        except BaseException as error:
            await shielded(session.rollback())
            if again and not writes and lost(error.__cause__ or error):
                raise _Again from error
            raise
        # What was read is known, however the transaction ends: only a commit could raise.
        await shielded(session.commit() if writes else session.rollback())
        return result


class _Again(Exception):  # noqa: N818 - never leaves this module
    """The read had no effect: it may be run once more."""


class PostgresTransaction(Statements, TransactionSession):
    """One transaction on one connection."""

    def __init__(self, layouts: Layouts, pool: Pool, slot: Slot, *, seconds: float) -> None:
        super().__init__(layouts)
        self._pool = pool
        self._slot: Slot | None = slot
        self._seconds = seconds
        self._lease: Lease | None = None
        self.bridge: Bridge | None = None
        self.on_commit = _nothing

    @property
    def connection(self) -> Connection:
        """The connection; not to be kept."""
        assert self._slot is not None  # noqa: S101 - core refuses calls after the end
        return self._slot.connection

    async def run(
        self,
        call: Call[T],
        *,
        info: EntityInfo[Any] | None = None,
        writes: bool = False,  # noqa: ARG002 - here the commit tells
    ) -> T:
        """Run one statement within the transaction."""
        connection = self.connection
        seconds = time_left()
        try:
            return await call(connection, seconds)
        except FOREIGN as error:
            raise translate(
                error,
                info=info,
                seconds=seconds or self._seconds,
                closed=connection.is_closed(),
            ) from error

    @asynccontextmanager
    async def atomic(self) -> AsyncGenerator[Statements, None]:
        """Return itself."""
        yield self

    async def stream(
        self, info: EntityInfo[Any], select: Select, batch: int
    ) -> AsyncGenerator[Sequence[Row], None]:
        """Yield rows from a cursor within the transaction."""
        connection = self.connection
        sql, values = self.select_sql(info, select)
        try:
            cursor = await connection.cursor(sql, *values, timeout=time_left())
            while rows := await cursor.fetch(batch, timeout=time_left()):
                yield rows
        except FOREIGN as error:
            raise translate(error, info=info, closed=connection.is_closed()) from error

    async def orm(self, tenant: Tenant = None) -> "AsyncSession":
        """Return SQLAlchemy's session on this very transaction; see `orm_session`."""
        if self._lease is None:
            assert self.bridge is not None  # noqa: S101 - set by the driver
            self._lease = await self.bridge.lease(self.connection)
        session = self._lease.session
        session.info[TENANT] = tenant
        return session

    async def commit(self) -> None:
        """Commit, and free the connection."""
        if self._lease is not None:
            try:
                await self._lease.flush()
            except BaseException:
                await self.rollback()
                raise
        slot = self._taken()
        try:
            await self._end_lease()
            status = await slot.connection.execute("COMMIT")
        except FOREIGN as error:
            gone = self._pool.settle(slot, error)
            if gone or isinstance(error, TimeoutError):
                raise CommitOutcomeUnknown(
                    "the connection was lost during COMMIT: the changes are stored, or they are "
                    "not",
                    error_code=getattr(error, "sqlstate", None),
                    cause=error,
                ) from error
            raise translate(error) from error
        except BaseException:
            self._pool.terminate(slot)
            raise
        self._pool.release(slot)
        if status != "COMMIT":  # PostgreSQL answers so to COMMIT after an error
            raise DatabaseError(
                "an earlier error undid the transaction, so nothing was stored",
                error_code="25P02",
                retryable=False,
            )
        self.on_commit()

    async def rollback(self) -> None:
        """Undo everything, and free the connection, also a broken one."""
        slot = self._taken()
        try:
            await self._end_lease()
            await slot.connection.execute("ROLLBACK", timeout=_END_SECONDS)
        except FOREIGN:
            self._pool.terminate(slot)
        except BaseException:
            self._pool.terminate(slot)
            raise
        else:
            self._pool.release(slot)

    def abandon(self) -> None:
        """Undo everything in the background."""
        self._pool.recycle(self._taken())

    def _taken(self) -> Slot:
        slot, self._slot = self._slot, None
        assert slot is not None  # noqa: S101 - ends once
        return slot

    async def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.close()


def _nothing() -> None:
    """What happens after a commit, unless someone wants to know."""


async def begin(
    pool: Pool,
    layouts: Layouts,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    seconds: float,
    local: bool = False,
) -> PostgresTransaction:
    """Start a transaction, on another connection where the first turns out to be broken.

    Args:
        pool: Where to get the connection.
        layouts: Layouts of entities.
        isolation: What it sees of others.
        read_only: Refuse writes.
        seconds: Longest time of a statement.
        local: Tell the server so, since the connection's settings do not.
    """
    sql = "BEGIN"
    if isolation is not None:
        sql += f" ISOLATION LEVEL {isolation.upper()}"
    if read_only:
        sql += " READ ONLY"
    if local:
        sql += f"; SET LOCAL statement_timeout = {milliseconds(seconds)}"
    again = True
    while True:
        slot = pool.take() or await pool.acquire()
        try:
            await slot.connection.execute(sql, timeout=time_left())
        except FOREIGN as error:
            gone = pool.settle(slot, error)
            if gone and again:
                again = False
                continue
            raise translate(error, closed=gone) from error
        except BaseException:
            pool.recycle(slot)
            raise
        return PostgresTransaction(layouts, pool, slot, seconds=seconds)
