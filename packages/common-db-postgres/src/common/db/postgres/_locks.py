"""Advisory locks: mutual exclusion by name, over all processes on one database."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from common.context import operation, remaining, shielded
from common.db.core import (
    ConnectionLost,
    LockTimeout,
    UnitOfWork,
    UnsupportedOperation,
)
from common.db.postgres._connect import Connection, milliseconds
from common.db.postgres._driver import SYSTEM, PostgresDriver
from common.db.postgres._errors import FOREIGN, translate
from common.db.postgres._errors import lost as is_lost
from common.db.postgres._names import lock_key
from common.db.postgres._pool import Slot
from common.db.postgres._session import PostgresTransaction
from common.errors import ValidationError

_UNLOCK_SECONDS: Final = 5.0


@asynccontextmanager
async def session_lock(
    driver: PostgresDriver, name: str, seconds: float | None
) -> AsyncGenerator[None, None]:
    """Hold a lock of a session; see `PostgresDatabase.advisory_lock`."""
    if driver.config.pgbouncer:
        raise UnsupportedOperation(
            "a pooler in transaction mode cannot keep a lock: use transaction_lock()",
            operation="advisory_lock",
            backend=SYSTEM,
        )
    wait = driver.config.timeout_seconds if seconds is None else seconds
    left = remaining()
    with operation("lock", "advisory_lock", {"db.system.name": SYSTEM}):
        slot = await _take(driver, name, wait if left is None else min(wait, left))
    lost = asyncio.get_running_loop().create_future()

    def ended(_: Connection) -> None:
        if not lost.done():
            lost.set_result(None)
            guard.reschedule(0)

    slot.connection.add_termination_listener(ended)
    guard = asyncio.timeout(None)
    try:
        async with guard:
            if slot.connection.is_closed():
                ended(slot.connection)
            yield
    except TimeoutError as error:
        if not lost.done():
            raise
        raise ConnectionLost(
            f"the connection that held the lock {name!r} broke: the lock is gone", cause=error
        ) from error
    finally:
        slot.connection.remove_termination_listener(ended)
        lost.cancel()  # asyncpg may have scheduled the listener already
        await shielded(_unlock(driver, slot))


async def _take(driver: PostgresDriver, name: str, seconds: float) -> Slot:
    """Return a connection that holds the lock; what broke before it did is replaced once."""
    pool = driver.primary
    again = True
    while True:
        slot = await pool.acquire()
        try:
            await _lock(driver, slot.connection, lock_key(name), seconds)
        except FOREIGN as error:
            if is_lost(error, closed=slot.connection.is_closed()):
                pool.settle(slot, error)
                if again:
                    again = False
                    continue
                raise translate(error, closed=True) from error
            # It may have been granted in the instant in which we gave up.
            await shielded(_unlock(driver, slot))
            if isinstance(error, TimeoutError):
                raise _taken(name, seconds, error) from error
            raise translate(error) from error
        except BaseException:
            await shielded(_unlock(driver, slot))
            raise
        return slot


async def _lock(driver: PostgresDriver, connection: Connection, key: int, seconds: float) -> None:
    if await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
        return
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    # In turns that end before the server's own timeout of statements does.
    turn = driver.config.statement_timeout_seconds / 2
    while (left := end - loop.time()) > 0:
        try:
            await connection.fetchval("SELECT pg_advisory_lock($1)", key, timeout=min(left, turn))
        except TimeoutError:
            continue
        return
    raise TimeoutError


async def _unlock(driver: PostgresDriver, slot: Slot) -> None:
    pool = driver.primary
    try:
        await slot.connection.execute("SELECT pg_advisory_unlock_all()", timeout=_UNLOCK_SECONDS)
    except FOREIGN:
        pool.terminate(slot)
    except BaseException:
        pool.terminate(slot)
        raise
    else:
        pool.release(slot)


async def transaction_lock(
    unit: UnitOfWork, name: str, *, timeout_seconds: float | None = None
) -> None:
    """Take an advisory lock until the unit of work ends.

    Args:
        unit: Of a `PostgresDatabase`.
        name: Of the lock.
        timeout_seconds: Longest wait; 0 does not wait, ``None`` waits as long as statements may.

    Raises:
        LockTimeout: Another transaction holds it; the unit of work can go on only after a wait
            of 0.
    """
    session: Any = unit.session
    if not isinstance(session, PostgresTransaction):
        raise ValidationError("this needs a unit of work of a PostgresDatabase")
    key = lock_key(name)

    async def take(connection: Connection, seconds: float | None) -> bool:
        if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key, timeout=seconds):
            return True
        if timeout_seconds is not None and timeout_seconds <= 0:
            return False
        if timeout_seconds is not None:
            await connection.execute(
                f"SET LOCAL lock_timeout = {milliseconds(timeout_seconds)}", timeout=seconds
            )
        await connection.fetchval("SELECT pg_advisory_xact_lock($1)", key, timeout=seconds)
        if timeout_seconds is not None:
            await connection.execute("SET LOCAL lock_timeout = DEFAULT", timeout=seconds)
        return True

    with operation("lock", "transaction_lock", {"db.system.name": SYSTEM}):
        if not await session.run(take):
            raise _taken(name, 0.0, None)


def _taken(name: str, seconds: float, cause: BaseException | None) -> LockTimeout:
    return LockTimeout(
        f"the lock {name!r} stayed taken for {seconds:g} s", timeout_seconds=seconds, cause=cause
    )
