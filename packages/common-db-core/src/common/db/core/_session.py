"""What a backend implements: a driver, and the primitive calls of its sessions.

Whatever arrives here is checked: fields exist, values have the form in which they are stored,
conditions include tenant and soft delete. A backend adds nothing but the database.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from common.db.core._entity import EntityInfo, Row
from common.db.core._errors import UniqueViolationError
from common.db.core._query import Predicate
from common.db.core._select import Scope, Select
from common.db.core._version import Expected


class Capability(StrEnum):
    """What not every backend can do; without it the call raises a clear error."""

    TRANSACTIONS = "transactions"
    """Units of work over any rows of any entities."""
    ISOLATION = "isolation"
    """Repeatable read and serializable transactions that detect conflicts."""
    UNIQUE = "unique"
    """Unique constraints besides the primary key."""
    OFFSET = "offset"
    """Numbered pages and offsets."""
    MIXED_ORDER = "mixed_order"
    """Ascending and descending keys in one order."""
    NULL_ORDER = "null_order"
    """Nulls first or last, as the query says."""
    TEXT_MATCH = "text_match"
    """contains, starts_with, ends_with."""
    ALL_TENANTS = "all_tenants"
    """Repositories over all tenants."""


class Isolation(StrEnum):
    """What a transaction sees of others (ISO/IEC 9075; PostgreSQL, "Transaction Isolation")."""

    READ_COMMITTED = "read committed"
    REPEATABLE_READ = "repeatable read"
    SERIALIZABLE = "serializable"


@dataclass(frozen=True)
class PoolStats:
    """Figures of a connection pool.

    Args:
        size: Connections it keeps at most, without overflow.
        in_use: Connections that are checked out.
        idle: Connections that are open and free.
        overflow: Connections open above ``size``.
        waiting: Calls that wait for a connection.
    """

    size: int
    in_use: int = 0
    idle: int = 0
    overflow: int = 0
    waiting: int = 0


class Session(ABC):
    """Primitive calls, within one transaction or each in its own.

    Rows are sequences in the order of ``info.names``. Each call is atomic, bulk calls too.
    Errors are those of this package, with the driver's as ``__cause__``.
    """

    @abstractmethod
    async def select(self, info: EntityInfo[Any], select: Select) -> Sequence[Row]:
        """Return the rows that ``select.predicate`` is true for, in order."""

    @abstractmethod
    async def count(self, info: EntityInfo[Any], where: Predicate | None) -> int:
        """Return the number of rows."""

    @abstractmethod
    async def insert(self, info: EntityInfo[Any], row: Row) -> Row:
        """Insert a row and return it as stored, with version and times filled in."""

    @abstractmethod
    async def insert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        """Insert all rows or none, the fastest way there is; return their number."""

    @abstractmethod
    async def upsert(self, info: EntityInfo[Any], row: Row) -> Row | None:
        """Insert a row, or overwrite the one with its key; return it as stored.

        Only a row that is not marked as deleted, and whose tenant fields equal those of
        ``row``, may be overwritten; otherwise nothing changes and ``None`` is returned.
        """

    @abstractmethod
    async def upsert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        """Upsert all rows, whose keys differ, or none; raise `key_conflict` for a blocked one."""

    @abstractmethod
    async def update(
        self,
        info: EntityInfo[Any],
        key: tuple[Any, ...],
        changes: Mapping[str, Any],
        scope: Scope,
        expected: Expected,
    ) -> Row | None:
        """Change the row that has key, scope and version; ``None`` when there is none.

        Also sets the new version and the time of the update.
        """

    @abstractmethod
    async def delete(
        self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope, expected: Expected
    ) -> bool:
        """Remove the row that has key, scope and version, and tell whether there was one.

        Soft deletes arrive as `update`.
        """

    @abstractmethod
    def stream(
        self, info: EntityInfo[Any], select: Select, batch: int
    ) -> AsyncGenerator[Sequence[Row], None]:
        """Yield all rows, as of one instant, in batches; closing it frees everything."""

    async def get(self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope) -> Row | None:
        """Return the row with this key within the scope; override it for a fast path."""
        rows = await self.select(info, Select(scope.where(info, key), limit=1))
        return rows[0] if rows else None

    async def exists(self, info: EntityInfo[Any], where: Predicate | None) -> bool:
        """Tell whether there is a row; override it for a fast path."""
        return bool(await self.select(info, Select(where, limit=1)))


class TransactionSession(Session):
    """A session whose calls take effect together; it ends with exactly one of these two."""

    @abstractmethod
    async def commit(self) -> None:
        """Make everything durable and free the connection.

        Raises:
            SerializationConflict: A concurrent transaction won; nothing is stored.
            CommitOutcomeUnknown: The connection was lost meanwhile.
        """

    @abstractmethod
    async def rollback(self) -> None:
        """Undo everything and free the connection, also one that is broken."""


class Driver(ABC):
    """A backend's connection to its database.

    Attributes:
        system: Name of the product as OpenTelemetry has it (``db.system.name``).
        capabilities: What it can do.
    """

    system: str
    capabilities: frozenset[Capability]

    @abstractmethod
    async def open(self) -> None:
        """Connect, or prepare to."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything; called once, and shielded from cancellation."""

    @abstractmethod
    def autocommit(self) -> Session:
        """Return the session whose calls each take effect by themselves."""

    @abstractmethod
    async def begin(self, *, isolation: Isolation | None, read_only: bool) -> TransactionSession:
        """Start a transaction; leaks nothing when cancelled."""

    @abstractmethod
    async def ping(self) -> None:
        """Make a round trip to the database."""

    @abstractmethod
    def pool(self) -> PoolStats | None:
        """Return figures of the pool; ``None`` without one."""


def key_conflict(
    info: EntityInfo[Any], *, cause: BaseException | None = None
) -> UniqueViolationError:
    """Return the error for a primary key that is taken, by a row of whatever tenant."""
    return UniqueViolationError(
        f"a {info.name} with this {', '.join(info.key)} exists already",
        constraint=info.primary_key,
        fields=info.key,
        conflicting_resource=info.name,
        cause=cause,
    )
