"""The database manager: owner of the connections, and source of repositories."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Final, Self, TypeVar

from common.context import check_deadline, remaining, shielded
from common.db.core._config import DatabaseConfig
from common.db.core._cursor import CursorCodec
from common.db.core._errors import CommitOutcomeUnknown, SerializationConflict
from common.db.core._gate import Gate, closed, report
from common.db.core._page import check_int
from common.db.core._repository import Repository
from common.db.core._session import (
    Capability,
    Driver,
    Isolation,
    PoolStats,
    Session,
    TransactionSession,
)
from common.db.core._tenant import Tenant
from common.db.core._unit import UnitOfWork, make_repository
from common.errors import AppError, ValidationError

E = TypeVar("E")
T = TypeVar("T")

FIRST_DELAY: Final = 0.01
MAX_DELAY: Final = 1.0
MAX_RETRIES: Final = 100


@dataclass(frozen=True)
class Health:
    """State of a database, as seen from here.

    Args:
        ok: Whether it answered.
        system: Its product, such as ``"postgresql"``.
        latency: Seconds of the round trip; ``None`` when there was no answer.
        pool: Figures of the connection pool, if there is one.
        error: Code of the error when it did not answer.
    """

    ok: bool
    system: str
    latency: float | None = None
    pool: PoolStats | None = None
    error: str | None = None


class DatabaseManager(Gate):
    """Owns the connections to one database; an async context manager.

    A backend subclasses it, names its ``config_type``, and hands its `Driver` to this
    constructor, which connects nothing.

    Args:
        driver: The backend.
        config: Its configuration.
    """

    config_type: ClassVar[type[DatabaseConfig]] = DatabaseConfig

    def __init__(self, driver: Driver, config: DatabaseConfig) -> None:
        keys = [key.get_secret_value().encode() for key in config.cursor_keys]
        super().__init__(driver, config, CursorCodec(keys, max_bytes=config.max_value_bytes))
        self._state = "not open"
        self._opening = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do."""
        return self.driver.capabilities

    async def open(self) -> None:
        """Connect; does nothing when it is open already.

        Raises:
            SessionStateError: It was closed before.
        """
        async with self._opening:
            if self._state == "closed":
                raise closed("database manager", "closed")
            if self._state == "not open":
                await report(self.driver, "open", self.driver.open())
                self._state = "open"

    async def close(self) -> None:
        """Free all connections; does nothing when it is closed already."""
        async with self._opening:  # what another task is opening has to be closed, too
            if self._closing is None:
                opened, self._state = self._state == "open", "closed"
                if not opened:
                    return
                self._closing = asyncio.ensure_future(self.driver.close())
        await shielded(_wait(asyncio.shield(self._closing)))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def repository(self, entity: type[E], *, tenant: Tenant = None) -> Repository[E]:
        """Return a repository whose calls each take effect by themselves.

        Args:
            entity: A class declared with `entity`.
            tenant: Whose rows: the value of the entity's tenant field, a mapping where it has
                several, `ALL_TENANTS`, or ``None`` for the tenant of the current context.

        Raises:
            TenantRequiredError: The entity belongs to tenants, and none is known.
            EntityDefinitionError: The class cannot be stored.
        """
        return make_repository(self, entity, tenant)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation | None = None, read_only: bool = False
    ) -> AsyncGenerator[UnitOfWork, None]:
        """Open a unit of work: it commits at the end, or rolls back when the body raises.

        Args:
            isolation: What it sees of others; read committed unless given.
            read_only: Refuse writes.

        Raises:
            SerializationConflict: On commit, a concurrent transaction won; see `run`.
            CommitOutcomeUnknown: The connection was lost during the commit.
            UnsupportedOperation: The backend has no transactions, or not this isolation.
            DeadlineExceeded: No time is left; nothing was sent.
        """
        self.enter(write=False)
        self.require(Capability.TRANSACTIONS, "transactions")
        level = None if isolation is None else _level(isolation)
        if level not in (None, Isolation.READ_COMMITTED):
            self.require(Capability.ISOLATION, f"isolation {level}")
        check_deadline()
        session = await self._begin(level, read_only=read_only)
        unit = UnitOfWork(self.driver, self.config, self.codec, session, read_only=read_only)
        try:
            yield unit
        except BaseException as error:
            try:
                await unit.end(commit=False)
            except AppError as second:
                error.add_note(f"the rollback failed, too: {second.code}")
            raise
        await unit.end(commit=True)

    async def run(
        self,
        work: Callable[[UnitOfWork], Awaitable[T]],
        *,
        retries: int = 3,
        idempotent: bool = False,
        isolation: Isolation | None = None,
        read_only: bool = False,
    ) -> T:
        """Run ``work`` in a unit of work, all of it again when a concurrent transaction wins.

        Serialization conflicts and deadlocks are retried, after a pause with jitter that doubles
        from 10 ms up to 1 s; not when the current deadline would pass meanwhile.

        Args:
            work: Is called with a new unit of work each time; it may run several times, so its
                effects outside the database must bear that.
            retries: How often to run it again.
            idempotent: Running ``work`` after it took effect does no harm: then it is also run
                again after `CommitOutcomeUnknown`.
            isolation: See `transaction`.
            read_only: See `transaction`.

        Raises:
            SerializationConflict: The last attempt failed, too.
            CommitOutcomeUnknown: The changes may be stored.
        """
        check_int("retries", retries, 0, MAX_RETRIES)
        attempt = 0
        while True:
            try:
                async with self.transaction(isolation=isolation, read_only=read_only) as unit:
                    return await work(unit)
            except (SerializationConflict, CommitOutcomeUnknown) as error:
                if isinstance(error, CommitOutcomeUnknown) and not idempotent:
                    raise
                pause = random.uniform(0, min(MAX_DELAY, FIRST_DELAY * 2**attempt))  # noqa: S311
                left = remaining()
                if attempt >= retries or (left is not None and left <= pause):
                    raise
            attempt += 1
            await asyncio.sleep(pause)

    async def health(self, *, timeout_seconds: float = 5.0) -> Health:
        """Make a round trip and tell how it went; raises nothing when the database is down.

        Args:
            timeout_seconds: Longest wait for the answer.
        """
        system = self.driver.system
        if self._state != "open":
            return Health(ok=False, system=system, error="DB_SESSION_STATE")
        start = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_seconds):
                await report(self.driver, "ping", self.driver.ping())
        except (AppError, OSError) as error:  # TimeoutError is an OSError
            code = error.code if isinstance(error, AppError) else type(error).__name__
            return Health(ok=False, system=system, pool=self.driver.pool(), error=code)
        latency = time.perf_counter() - start
        return Health(ok=True, system=system, latency=latency, pool=self.driver.pool())

    def enter(self, *, write: bool) -> Session:  # noqa: ARG002 - the unit of work needs it
        """Return the session whose calls each take effect by themselves."""
        if self._state != "open":
            raise closed("database manager", self._state)
        return self.driver.autocommit()

    def leave(self, error: BaseException | None) -> None:
        """Nothing outlives a call here."""

    async def _begin(self, isolation: Isolation | None, *, read_only: bool) -> TransactionSession:
        begin = self.driver.begin(isolation=isolation, read_only=read_only)
        return await report(self.driver, "begin", begin)


def _level(isolation: str) -> Isolation:
    try:
        return Isolation(isolation)
    except ValueError:
        raise ValidationError(
            f"isolation is one of {', '.join(Isolation)}", field="isolation"
        ) from None


async def _wait(closing: Awaitable[None]) -> None:
    await closing
