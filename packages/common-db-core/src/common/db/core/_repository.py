"""The repository: what an application sees of one entity's table."""

import builtins
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeAlias, TypeVar

from common.db.core._access import Access
from common.db.core._cursor import Cursor
from common.db.core._entity import EntityInfo, Row
from common.db.core._errors import StaleVersionError
from common.db.core._gate import Gate
from common.db.core._page import NumberedPage, Page, check_int
from common.db.core._query import Condition
from common.db.core._select import Scope, Seek, Select, reverse
from common.db.core._session import key_conflict
from common.db.core._version import ANY, Expected
from common.db.core._write import (
    bounded,
    check_changes,
    check_expected,
    check_key,
    deletion,
    equality,
    overwriting,
    repeated_key,
)
from common.errors import NotFoundError, ValidationError

E = TypeVar("E")

KeyValue: TypeAlias = Any
"""A primary key: a value, or a tuple of values where it has several fields."""

MAX_BATCH = 10_000


class Repository(Generic[E]):
    """Reads and writes one entity, for one tenant; made by ``repository(Entity)``.

    Rows of other tenants and rows marked as deleted do not exist for it. All methods raise
    `ValidationError` for bad input before anything reaches the database, and one of the errors
    of this package, all of them `AppError`, when the database fails.

    Args:
        gate: The manager or unit of work it belongs to.
        info: The entity.
        scope: The rows it may see.
    """

    def __init__(self, gate: Gate, info: EntityInfo[E], scope: Scope) -> None:
        self._gate = gate
        self._info = info
        self._scope = scope
        self._access = Access(gate, info, scope)

    # Reading

    async def get(self, id: KeyValue) -> E:  # noqa: A002 - the contract's word
        """Return the entity with this primary key.

        Raises:
            NotFoundError: There is none, it is marked as deleted, or it is another tenant's.
        """
        return self._one(await self._access.get(check_key(self._info, id)), id)

    async def find_one(self, query: Condition = None) -> E | None:
        """Return the first entity in the query's order, or ``None``."""
        checked = self._access.check(query)
        where = self._access.within(checked)
        rows = await self._access.select(Select(where, checked.order, limit=1))
        return self._info.build_many(rows)[0] if rows else None

    async def find(
        self,
        query: Condition = None,
        *,
        limit: int = 100,
        after: Cursor | None = None,
        before: Cursor | None = None,
        total: bool = False,
    ) -> Page[E]:
        """Return a page of entities; pages stay consistent while rows come and go.

        Args:
            query: Which entities, and in which order; all without it.
            limit: Most entities to return, up to the configured ``max_limit``.
            after: Cursor of the page before: ``page.next``.
            before: Cursor of the page after: ``page.previous``.
            total: Also count all that match; costs a second query.

        Raises:
            InvalidCursorError: The cursor was changed, or is of another query or tenant.
        """
        check_int("limit", limit, 1, self._gate.config.max_limit)
        if after is not None and before is not None:
            raise ValidationError("give after or before, not both", field="before")
        checked = self._access.check(query)
        order, seek = checked.order, None
        if after is not None:
            seek = self._access.seek(checked, after, "after")
        if before is not None:
            seek = self._access.seek(checked, before, "before")
            order = reverse(order)
            seek = Seek(order, seek.keys, seek.nullable)
        where = self._access.within(checked)
        rows = await self._access.select(Select(where, order, limit=limit + 1, seek=seek))
        more, rows = len(rows) > limit, rows[:limit]
        if before is not None:
            rows = rows[::-1]
        at_end, at_start = (not rows, not more) if before else (not more, not (after and rows))
        return Page(
            items=self._info.build_many(rows),
            limit=limit,
            next=None if at_end else self._access.cursor(checked, rows[-1]),
            previous=None if at_start else self._access.cursor(checked, rows[0]),
            total=await self._access.count(where) if total else None,
        )

    async def find_page(
        self, query: Condition = None, *, page: int = 1, limit: int = 50, total: bool = False
    ) -> NumberedPage[E]:
        """Return a page by its number; simpler than `find`, slower the higher the number.

        Args:
            query: Which entities, and in which order.
            page: Number of the page, from 1.
            limit: Most entities on it.
            total: Also count all that match; costs a second query.

        Raises:
            UnsupportedOperation: The backend has no offsets.
        """
        check_int("limit", limit, 1, self._gate.config.max_limit)
        check_int("page", page, 1, self._gate.config.max_offset // limit + 1)
        checked = self._access.check(query)
        where = self._access.within(checked)
        select = Select(where, checked.order, limit=limit + 1, offset=(page - 1) * limit)
        rows = await self._access.select(select)
        return NumberedPage(
            items=self._info.build_many(rows[:limit]),
            page=page,
            limit=limit,
            has_next=len(rows) > limit,
            total=await self._access.count(where) if total else None,
        )

    async def list(
        self, filters: Mapping[str, object] | None = None, *, limit: int = 100, offset: int = 0
    ) -> builtins.list[E]:
        """Return entities whose fields have these values, by primary key; the simple form.

        Args:
            filters: Field to value; a list, tuple or set means any of its values, ``None``
                means null.
            limit: Most entities to return.
            offset: Entities to skip first.
        """
        check_int("limit", limit, 1, self._gate.config.max_limit)
        check_int("offset", offset, 0, self._gate.config.max_offset)
        checked = self._access.check(equality(filters))
        where = self._access.within(checked)
        rows = await self._access.select(Select(where, checked.order, limit=limit, offset=offset))
        return self._info.build_many(rows)

    async def count(self, query: Condition = None) -> int:
        """Return the number of entities."""
        return await self._access.count(self._access.within(self._access.check(query)))

    async def exists(self, query: Condition = None) -> bool:
        """Tell whether there is such an entity."""
        where = self._access.within(self._access.check(query))
        return await self._access.exists(where)

    def stream(self, query: Condition = None, *, batch: int = 1_000) -> AsyncGenerator[E, None]:
        """Yield all entities in order, with a bounded number of them in memory.

        Close it when you leave it early: ``async with aclosing(repo.stream(...)) as calls``.

        Args:
            query: Which entities, and in which order.
            batch: Entities to fetch at a time, up to 10,000.
        """
        check_int("batch", batch, 1, MAX_BATCH)
        checked = self._access.check(query)
        return self._stream(Select(self._access.within(checked), checked.order), batch)

    # Writing

    async def add(self, entity: E) -> E:
        """Insert an entity and return it as stored, with its version.

        Raises:
            UniqueViolationError: The primary key, also one of a deleted row or of another
                tenant, or the values of a unique constraint are taken.
            TenantMismatchError: The entity carries another tenant.
        """
        row = self._access.rows([entity])[0]
        stored = await self._access.write("insert", lambda session: session.insert(self._info, row))
        return self._info.build_many([stored])[0]

    async def add_many(self, entities: Iterable[E]) -> int:
        """Insert all entities or none, by the backend's fastest path; return their number.

        Raises:
            UniqueViolationError: As `add`; nothing is stored.
            TenantMismatchError: One carries another tenant; nothing is stored.
        """
        rows = self._access.rows(bounded(entities, self._gate.config.max_bulk))
        if not rows:
            return 0
        return await self._access.write(
            "insert", lambda session: session.insert_many(self._info, rows), len(rows)
        )

    async def upsert(self, entity: E, *, expected: Expected = ANY) -> E:
        """Insert an entity, or overwrite the one with its primary key; return it as stored.

        Args:
            entity: All its fields are written.
            expected: The version that must be stored; then nothing is inserted.

        Raises:
            UniqueViolationError: The key belongs to a deleted row or to another tenant, neither
                of which is overwritten, or the values of a unique constraint are taken.
            StaleVersionError: The row has another version, or is gone.
        """
        check_expected(self._info, expected)
        row = self._access.rows([entity])[0]
        if expected is not ANY:
            key = self._info.key_of(row)
            changes, scope = overwriting(self._info, row)
            stored = await self._access.write(
                "update", lambda session: session.update(self._info, key, changes, scope, expected)
            )
            if stored is None:
                raise self._stale(expected, await self._access.get(key))
        else:
            stored = await self._access.write(
                "upsert", lambda session: session.upsert(self._info, row)
            )
            if stored is None:
                conflict = key_conflict(self._info)
                self._gate.fail(conflict)
                raise conflict
        return self._info.build_many([stored])[0]

    async def upsert_many(self, entities: Iterable[E]) -> int:
        """Upsert all entities or none; return their number.

        Raises:
            UniqueViolationError: As `upsert`; nothing is stored.
            ValidationError: The same primary key comes twice.
        """
        rows = self._access.rows(bounded(entities, self._gate.config.max_bulk))
        if repeated_key(self._info, rows):
            raise ValidationError(
                f"the same {', '.join(self._info.key)} comes twice", field=self._info.key[0]
            )
        if not rows:
            return 0
        return await self._access.write(
            "upsert", lambda session: session.upsert_many(self._info, rows), len(rows)
        )

    async def update(
        self,
        id: KeyValue,  # noqa: A002
        changes: Mapping[str, object],
        *,
        expected: Expected,
    ) -> E:
        """Change fields of one entity and return it as stored, with its new version.

        Args:
            id: Its primary key.
            changes: Field to new value; none at all only checks the version. Constraints that
                fields declare hold; validators that are methods of the class do not run.
            expected: The version that was read; ``ANY`` overwrites whatever is there.

        Raises:
            NotFoundError: There is no such entity.
            StaleVersionError: It has another version: someone was faster.
            UnknownFieldError: A field does not exist.
            ValidationError: A value does not fit, or a field is the key, a tenant field, or set
                by the library.
        """
        key = check_key(self._info, id)
        check_expected(self._info, expected)
        checked = check_changes(self._info, changes, max_bytes=self._gate.config.max_value_bytes)
        if not checked:
            row = self._found(await self._access.get(key), id)
            if expected is not ANY and self._version(row) != expected:
                raise self._stale(expected, row)
            return self._one(row, id)
        stored = await self._access.write(
            "update",
            lambda session: session.update(self._info, key, checked, self._scope, expected),
        )
        if stored is None:
            current = None if expected is ANY else await self._access.get(key)
            raise self._stale(expected, self._found(current, id))
        return self._one(stored, id)

    async def delete(self, id: KeyValue, *, expected: Expected = ANY) -> bool:  # noqa: A002
        """Delete one entity, or mark it as deleted; tell whether there was one.

        Raises:
            StaleVersionError: It has another version than ``expected``.
        """
        key = check_key(self._info, id)
        check_expected(self._info, expected)
        marks = deletion(self._info)
        if marks:
            stored = await self._access.write(
                "update",
                lambda session: session.update(self._info, key, marks, self._scope, expected),
            )
            done = stored is not None
        else:
            done = await self._access.write(
                "delete", lambda session: session.delete(self._info, key, self._scope, expected)
            )
        if not done and expected is not ANY:
            current = await self._access.get(key)
            if current is not None:
                raise self._stale(expected, current)
        return done

    def __repr__(self) -> str:
        return f"Repository({self._info.name})"

    async def _stream(self, select: Select, batch: int) -> AsyncGenerator[E, None]:
        async with aclosing(self._access.stream(select, batch)) as batches:
            async for rows in batches:
                for entity in self._info.build_many(rows):
                    yield entity

    def _found(self, row: Row | None, id: KeyValue) -> Row:  # noqa: A002
        if row is None:
            raise NotFoundError(
                f"there is no such {self._info.name}", resource=self._info.name, resource_id=id
            )
        return row

    def _one(self, row: Row | None, id: KeyValue) -> E:  # noqa: A002
        return self._info.build_many([self._found(row, id)])[0]

    def _version(self, row: Row) -> Any:
        return None if self._info.version is None else row[self._info.index(self._info.version)]

    def _stale(self, expected: Expected, row: Row | None) -> StaleVersionError:
        return StaleVersionError(
            f"the {self._info.name} was changed meanwhile: read it again",
            expected=None if expected is ANY else expected,
            actual=None if row is None else self._version(row),
            conflicting_resource=self._info.name,
        )
