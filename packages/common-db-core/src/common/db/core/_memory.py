"""The in-memory backend: the same contract, transactions and conflicts included."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from common.context import new_id
from common.db.core._config import DatabaseConfig
from common.db.core._entity import EntityInfo, Row
from common.db.core._errors import PoolTimeout
from common.db.core._evaluate import judge, sort
from common.db.core._kind import Kind
from common.db.core._manager import DatabaseManager
from common.db.core._query import Predicate
from common.db.core._select import Scope, Select
from common.db.core._session import (
    Capability,
    Driver,
    Isolation,
    PoolStats,
    Session,
    TransactionSession,
    key_conflict,
)
from common.db.core._tables import Store, Transaction, freeze, freeze_changes, thaw
from common.db.core._version import ANY, Expected


class MemoryDatabase(DatabaseManager):
    """A database in this process, for tests and small tools; closing it forgets everything.

    It keeps the contract as PostgreSQL does: SQL's three-valued logic, transactions with three
    isolation levels, row locks, deadlocks, unique constraints. It reads every row for every
    query, so thousands of rows are fine and millions are not.

    Example:
        >>> import asyncio, dataclasses
        >>> from common.db.core import F, entity
        >>> @entity(table="notes", version="version")
        ... @dataclasses.dataclass
        ... class Note:
        ...     id: int
        ...     text: str
        ...     version: int = 0
        >>> async def main():
        ...     async with MemoryDatabase() as db:
        ...         notes = db.repository(Note)
        ...         await notes.add(Note(id=1, text="hello"))
        ...         return await notes.find_one(F.text.starts_with("hell"))
        >>> asyncio.run(main())
        Note(id=1, text='hello', version=1)
    """

    def __init__(self, config: DatabaseConfig | None = None) -> None:
        config = config or DatabaseConfig()
        super().__init__(_MemoryDriver(config), config)


class _MemoryDriver(Driver):
    system = "memory"
    capabilities = frozenset(Capability)

    def __init__(self, config: DatabaseConfig) -> None:
        self._config = config
        self._store = Store(config.timeout_seconds)
        self._slots = asyncio.Semaphore(config.pool_size + config.max_overflow)
        self._in_use = 0
        self._waiting = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self._store = Store(self._config.timeout_seconds)

    def autocommit(self) -> Session:
        return _Autocommit(self._store)

    async def begin(
        self,
        *,
        isolation: Isolation | None,
        read_only: bool,  # noqa: ARG002 - kept by core
    ) -> TransactionSession:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                await asyncio.sleep(0)
                await self._slots.acquire()
        except TimeoutError:
            raise PoolTimeout(
                "too many transactions are open", timeout_seconds=self._config.timeout_seconds
            ) from None
        finally:
            self._waiting -= 1
        self._in_use += 1
        level = isolation or Isolation.READ_COMMITTED
        return _MemoryTransaction(Transaction(self._store, level), self._store, self._ended)

    async def ping(self) -> None:
        await asyncio.sleep(0)

    def pool(self) -> PoolStats:
        size, in_use = self._config.pool_size, self._in_use
        return PoolStats(
            size=size,
            in_use=in_use,
            idle=max(size - in_use, 0),
            overflow=max(in_use - size, 0),
            waiting=self._waiting,
        )

    def _ended(self) -> None:
        self._in_use -= 1
        self._slots.release()


class _Calls:
    """The primitive calls of one transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope) -> Row | None:
        wanted = judge(info, scope.where(info, key))
        self._transaction.looked(info, wanted)
        row = self._transaction.get(info, key)
        return row if row is not None and wanted(row) else None

    def select(self, info: EntityInfo[Any], select: Select) -> list[Row]:
        found = sort(info, self._rows(info, select.predicate), select.order)
        end = None if select.limit is None else select.offset + select.limit
        return found[select.offset : end]

    def count(self, info: EntityInfo[Any], where: Predicate | None) -> int:
        return sum(1 for _ in self._rows(info, where))

    async def insert(self, info: EntityInfo[Any], row: Row) -> Row:
        stored = _filled(info, freeze(info, row))
        await self._transaction.insert(info, info.key_of(stored), stored)
        return stored

    async def upsert(self, info: EntityInfo[Any], row: Row) -> Row | None:
        key, new = info.key_of(row), freeze(info, row)
        await self._transaction.lock(info, key)
        old = self._transaction.newest(info, key)
        if old is None:
            return await self.insert(info, row)
        same_owner = all(old[info.index(name)] == new[info.index(name)] for name in info.tenant)
        if not same_owner or (info.deleted is not None and old[info.index(info.deleted)]):
            return None
        stored = _filled(info, new, old)
        await self._transaction.put(info, key, stored)
        return stored

    async def update(
        self,
        info: EntityInfo[Any],
        key: tuple[Any, ...],
        changes: Mapping[str, Any],
        scope: Scope,
        expected: Expected,
    ) -> Row | None:
        old = await self._locked(info, key, scope, expected)
        if old is None:
            return None
        new = list(old)
        for name, value in freeze_changes(info, changes).items():
            new[info.index(name)] = value
        deleted = changes.get(info.deleted) if info.deleted else None
        stored = _filled(info, new, old, deleted=deleted)
        await self._transaction.put(info, key, stored)
        return stored

    async def delete(
        self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope, expected: Expected
    ) -> bool:
        old = await self._locked(info, key, scope, expected)
        if old is None:
            return False
        await self._transaction.put(info, key, None)
        return True

    async def _locked(
        self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope, expected: Expected
    ) -> Row | None:
        """Lock the row and return it, if it is in scope and has the version, before and after."""
        if not self._matches(info, await self.get(info, key, scope), expected):
            return None
        await self._transaction.lock(info, key)
        row = await self.get(info, key, scope)
        return row if self._matches(info, row, expected) else None

    @staticmethod
    def _matches(info: EntityInfo[Any], row: Row | None, expected: Expected) -> bool:
        if row is None or expected is ANY or info.version is None:
            return row is not None
        return bool(row[info.index(info.version)] == expected)

    def _rows(self, info: EntityInfo[Any], where: Predicate | None) -> Sequence[Row]:
        return list(self._transaction.scan(info, judge(info, where)))


class _MemorySession(Session):
    """Waits once before each call, as for a network, so that tasks interleave."""

    @abstractmethod
    def _calls(self) -> AbstractAsyncContextManager[_Calls]:
        """Give calls within a transaction, which ends with them or goes on."""

    async def get(self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope) -> Row | None:
        async with self._calls() as calls:
            row = await calls.get(info, key, scope)
        return None if row is None else thaw(info, row)

    async def select(self, info: EntityInfo[Any], select: Select) -> Sequence[Row]:
        async with self._calls() as calls:
            return [thaw(info, row) for row in calls.select(info, select)]

    async def count(self, info: EntityInfo[Any], where: Predicate | None) -> int:
        async with self._calls() as calls:
            return calls.count(info, where)

    async def insert(self, info: EntityInfo[Any], row: Row) -> Row:
        async with self._calls() as calls:
            return thaw(info, await calls.insert(info, row))

    async def insert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        async with self._calls() as calls:
            for row in rows:
                await calls.insert(info, row)
        return len(rows)

    async def upsert(self, info: EntityInfo[Any], row: Row) -> Row | None:
        async with self._calls() as calls:
            stored = await calls.upsert(info, row)
        return None if stored is None else thaw(info, stored)

    async def upsert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        async with self._calls() as calls:
            for row in rows:
                if await calls.upsert(info, row) is None:
                    raise key_conflict(info)
        return len(rows)

    async def update(
        self,
        info: EntityInfo[Any],
        key: tuple[Any, ...],
        changes: Mapping[str, Any],
        scope: Scope,
        expected: Expected,
    ) -> Row | None:
        async with self._calls() as calls:
            row = await calls.update(info, key, changes, scope, expected)
        return None if row is None else thaw(info, row)

    async def delete(
        self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope, expected: Expected
    ) -> bool:
        async with self._calls() as calls:
            return await calls.delete(info, key, scope, expected)

    async def stream(
        self, info: EntityInfo[Any], select: Select, batch: int
    ) -> AsyncGenerator[Sequence[Row], None]:
        async with self._calls() as calls:
            rows = calls.select(info, select)
        for start in range(0, len(rows), batch):
            await asyncio.sleep(0)
            yield [thaw(info, row) for row in rows[start : start + batch]]


class _Autocommit(_MemorySession):
    def __init__(self, store: Store) -> None:
        self._store = store

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[_Calls, None]:
        await asyncio.sleep(0)
        transaction = Transaction(self._store, Isolation.READ_COMMITTED)
        try:
            yield _Calls(transaction)
            self._store.commit(transaction)
        finally:
            self._store.end(transaction)


class _MemoryTransaction(_MemorySession, TransactionSession):
    def __init__(self, transaction: Transaction, store: Store, ended: Callable[[], None]) -> None:
        self._transaction = transaction
        self._store = store
        self._ended = ended

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[_Calls, None]:
        await asyncio.sleep(0)
        yield _Calls(self._transaction)

    async def commit(self) -> None:
        await asyncio.sleep(0)
        try:
            self._store.commit(self._transaction)
        finally:
            self._store.end(self._transaction)
            self._ended()

    async def rollback(self) -> None:
        self._store.end(self._transaction)
        self._ended()


def _filled(
    info: EntityInfo[Any], row: Row, old: Row | None = None, *, deleted: datetime | None = None
) -> Row:
    """Return a row to be stored, with what the database's side sets."""
    now = datetime.now(UTC)
    managed: dict[str | None, Any] = {
        info.created: now if old is None or info.created is None else old[info.index(info.created)],
        info.updated: now,
        info.version: _next_version(info, old),
        info.deleted: deleted,
    }
    return tuple(
        [
            managed[name] if name in info.managed else value
            for name, value in zip(info.names, row, strict=True)
        ]
    )


def _next_version(info: EntityInfo[Any], old: Row | None) -> object:
    if info.version is None:
        return None
    if info.field(info.version).kind is Kind.TEXT:
        return str(new_id())
    return 1 if old is None else old[info.index(info.version)] + 1
