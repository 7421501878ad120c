"""One entity's way through the gate: rows in and out, always within the scope."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from common.context import shielded
from common.db.core._check import CheckedQuery, check_query
from common.db.core._cursor import Cursor
from common.db.core._entity import EntityInfo, Row
from common.db.core._gate import Gate
from common.db.core._query import Condition, Predicate, both
from common.db.core._select import Scope, Seek, Select
from common.db.core._session import Capability, Session
from common.db.core._write import check_tenants

E = TypeVar("E")
T = TypeVar("T")


class Access(Generic[E]):
    """What all methods of a repository go through.

    Args:
        gate: The manager or unit of work.
        info: The entity.
        scope: The rows that exist at all.
    """

    def __init__(self, gate: Gate, info: EntityInfo[E], scope: Scope) -> None:
        self._gate = gate
        self._info = info
        self._scope = scope
        self._max_bytes = gate.config.max_value_bytes

    def check(self, query: Condition) -> CheckedQuery:
        """Check a query of the caller's."""
        return check_query(self._info, query, max_bytes=self._max_bytes)

    def within(self, query: CheckedQuery) -> Predicate | None:
        """Return the query's condition within the scope."""
        return both(self._scope.predicate, query.where)

    def seek(self, query: CheckedQuery, cursor: Cursor, name: str) -> Seek:
        """Return the position at which a cursor of the caller's stands."""
        return self._gate.codec.read(self._info, query, self._scope, cursor, name=name)

    def cursor(self, query: CheckedQuery, row: Row) -> Cursor:
        """Return the cursor that stands at a row."""
        return self._gate.codec.write(self._info, query, self._scope, row)

    async def get(self, key: tuple[Any, ...]) -> Row | None:
        """Return the row with this key."""

        async def fetch(session: Session) -> Sequence[Row]:
            row = await session.get(self._info, key, self._scope)
            return () if row is None else (row,)

        rows = await self._gate.call("get", self._info.table, fetch)
        return rows[0] if rows else None

    async def select(self, select: Select) -> Sequence[Row]:
        """Return the selected rows."""
        if select.offset:
            self._gate.require(Capability.OFFSET, "offsets")
        return await self._gate.call(
            "select", self._info.table, lambda session: session.select(self._info, select)
        )

    async def count(self, where: Predicate | None) -> int:
        """Return the number of rows."""
        return await self._gate.call(
            "count", self._info.table, lambda session: session.count(self._info, where)
        )

    async def exists(self, where: Predicate | None) -> bool:
        """Tell whether there is a row."""
        return await self._gate.call(
            "exists", self._info.table, lambda session: session.exists(self._info, where)
        )

    async def stream(self, select: Select, batch: int) -> AsyncGenerator[Sequence[Row], None]:
        """Yield the selected rows in batches, each of which is a call of its own."""
        opened: list[AsyncGenerator[Sequence[Row], None]] = []

        async def fetch(session: Session) -> Sequence[Row]:
            if not opened:
                opened.append(session.stream(self._info, select, batch))
            try:
                return await anext(opened[0])
            except StopAsyncIteration:
                return ()

        try:
            while rows := await self._gate.call("stream", self._info.table, fetch):
                yield rows
        finally:
            for rest in opened:
                await shielded(rest.aclose())

    async def write(
        self,
        name: str,
        primitive: Callable[[Session], Awaitable[T]],
        batch_size: int | None = None,
    ) -> T:
        """Run a primitive call that writes."""
        return await self._gate.call(
            name, self._info.table, primitive, write=True, batch_size=batch_size
        )

    def rows(self, entities: Sequence[E]) -> list[tuple[Any, ...]]:
        """Return entities of the caller's as rows to be inserted, checked."""
        rows = self._info.to_rows(entities, max_bytes=self._max_bytes)
        check_tenants(self._info, rows, self._scope)
        return rows
