"""The primitive calls of a session, in SQL; how a statement is run is left to subclasses."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar
from uuid import uuid4

from common.db.core import (
    ANY,
    EntityInfo,
    Expected,
    Predicate,
    Row,
    Scope,
    Select,
    Session,
    key_conflict,
)
from common.db.postgres._compile import Arguments, condition, order_by, where
from common.db.postgres._connect import Connection, dump_json
from common.db.postgres._layout import NOW, Layout
from common.errors import ValidationError

T = TypeVar("T")

Call: TypeAlias = Callable[[Connection, float | None], Awaitable[T]]
"""Talks to a connection, within so many seconds (``None``: the configured time)."""

_CHUNK_ROWS: Final = 5_000
_CHUNK_BYTES: Final = 64 << 20
_SIZED: Final = ("text", "bytea", "jsonb")


class Layouts:
    """The layouts of all entities that were used, each made once."""

    def __init__(self, schema: str | None) -> None:
        self._schema = schema
        self._known: dict[EntityInfo[Any], Layout] = {}

    def __call__(self, info: EntityInfo[Any]) -> Layout:
        layout = self._known.get(info)
        if layout is None:
            layout = self._known[info] = Layout(info, self._schema)
        return layout


class Statements(Session):
    """Sessions of this backend."""

    def __init__(self, layouts: Layouts) -> None:
        self.layout = layouts

    @abstractmethod
    async def run(
        self, call: Call[T], *, info: EntityInfo[Any] | None = None, writes: bool = False
    ) -> T:
        """Run ``call`` on a connection, and translate its errors."""

    @abstractmethod
    def atomic(self) -> AbstractAsyncContextManager["Statements"]:
        """Return the session to use for several statements that belong together."""

    # Reading

    async def get(self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope) -> Row | None:
        """Return one row, in one round trip."""
        sql = self.layout(info).get(scope)
        arguments = (*key, *[value for _, value in scope.tenant]) if scope.tenant else key
        return await self.run(
            lambda connection, seconds: connection.fetchrow(sql, *arguments, timeout=seconds),
            info=info,
        )

    async def select(self, info: EntityInfo[Any], select: Select) -> Sequence[Row]:
        """Return rows."""
        sql, values = _select(self.layout(info), select)
        return await self.run(
            lambda connection, seconds: connection.fetch(sql, *values, timeout=seconds), info=info
        )

    async def count(self, info: EntityInfo[Any], where: Predicate | None) -> int:
        """Return the number of rows."""
        return int(await self._value("SELECT count(*) FROM {}{}", info, where))

    async def exists(self, info: EntityInfo[Any], where: Predicate | None) -> bool:
        """Tell whether there is a row."""
        return bool(await self._value("SELECT EXISTS (SELECT FROM {}{})", info, where))

    async def _value(self, form: str, info: EntityInfo[Any], predicate: Predicate | None) -> Any:
        layout = self.layout(info)
        arguments = Arguments(layout)
        sql = form.format(layout.table, where(predicate, arguments))
        return await self.run(
            lambda connection, seconds: connection.fetchval(
                sql, *arguments.values, timeout=seconds
            ),
            info=info,
        )

    # Writing

    async def insert(self, info: EntityInfo[Any], row: Row) -> Row:
        """Insert a row and return it as stored."""
        stored = await self._write_row(info, self.layout(info).insert, row)
        assert stored is not None  # noqa: S101 - INSERT returns its row
        return stored

    async def upsert(self, info: EntityInfo[Any], row: Row) -> Row | None:
        """Insert a row or overwrite the one with its key."""
        return await self._write_row(info, self.layout(info).upsert, row)

    async def _write_row(self, info: EntityInfo[Any], sql: str, row: Row) -> Row | None:
        layout = self.layout(info)
        values = layout.encode(row)
        if layout.pick is not None:
            values = layout.pick(values)
        return await self.run(
            lambda connection, seconds: connection.fetchrow(sql, *values, timeout=seconds),
            info=info,
            writes=True,
        )

    async def insert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        """Insert rows by COPY; they are stored all or not at all."""
        layout = self.layout(info)
        # By key the index grows faster, and two calls wait for each other in one direction only.
        rows = sorted(rows, key=layout.sort_key)

        async def copy(connection: Connection, seconds: float | None) -> int:
            now = await connection.fetchval("SELECT now()") if layout.stamped else None
            try:
                await connection.copy_records_to_table(
                    info.table,
                    schema_name=layout.schema,
                    columns=layout.names,
                    records=_records(layout, rows, now),
                    timeout=seconds,
                )
            except (OverflowError, ValueError) as error:
                raise ValidationError("a value does not fit its column", cause=error) from error
            return len(rows)

        return await self.run(copy, info=info, writes=True)

    async def upsert_many(self, info: EntityInfo[Any], rows: Sequence[Row]) -> int:
        """Upsert rows, in one statement for each chunk."""
        layout = self.layout(info)
        # Two calls that meet the same rows in the same order cannot deadlock.
        chunks = list(_chunks(layout, sorted(rows, key=layout.sort_key)))
        if len(chunks) == 1 and not layout.guarded:
            return await self._upsert_chunk(info, chunks[0])
        async with self.atomic() as session:
            for chunk in chunks:
                if await session._upsert_chunk(info, chunk) != len(chunk[0]):  # noqa: SLF001
                    raise key_conflict(info)
        return len(rows)

    async def _upsert_chunk(self, info: EntityInfo[Any], columns: list[Sequence[Any]]) -> int:
        sql = self.layout(info).upsert_many
        status = await self.run(
            lambda connection, seconds: connection.execute(sql, *columns, timeout=seconds),
            info=info,
            writes=True,
        )
        return _affected(status)

    async def update(
        self,
        info: EntityInfo[Any],
        key: tuple[Any, ...],
        changes: Mapping[str, Any],
        scope: Scope,
        expected: Expected,
    ) -> Row | None:
        """Change one row, if it is the expected one, in one statement."""
        layout = self.layout(info)
        arguments = Arguments(layout)
        sets = [
            f"{layout.column(name)} = {arguments.add(name, layout.encode_value(name, value))}"
            for name, value in changes.items()
        ]
        sets += [
            f"{layout.column(name)} = {sql}"
            for name, sql in layout.touched.items()
            if name not in changes
        ]
        if not sets:
            sets.append(f"{layout.column(info.key[0])} = t.{layout.column(info.key[0])}")
        matched = _match(layout, key, scope, expected, arguments)
        sql = (
            f"UPDATE {layout.table} AS t "  # noqa: S608 - names are quoted
            f"SET {', '.join(sets)}{matched} RETURNING {layout.columns}"
        )
        return await self.run(
            lambda connection, seconds: connection.fetchrow(
                sql, *arguments.values, timeout=seconds
            ),
            info=info,
            writes=True,
        )

    async def delete(
        self, info: EntityInfo[Any], key: tuple[Any, ...], scope: Scope, expected: Expected
    ) -> bool:
        """Remove one row, if it is the expected one, in one statement."""
        layout = self.layout(info)
        arguments = Arguments(layout)
        matched = _match(layout, key, scope, expected, arguments)
        sql = f"DELETE FROM {layout.table}{matched}"  # noqa: S608 - names are quoted
        status = await self.run(
            lambda connection, seconds: connection.execute(sql, *arguments.values, timeout=seconds),
            info=info,
            writes=True,
        )
        return _affected(status) > 0

    def select_sql(self, info: EntityInfo[Any], select: Select) -> tuple[str, list[Any]]:
        """Return a selection's statement and its arguments."""
        return _select(self.layout(info), select)


def _select(layout: Layout, select: Select) -> tuple[str, list[Any]]:
    arguments = Arguments(layout)
    sql = f"{layout.select}{condition(select, arguments)}{order_by(select.order, layout)}"
    # Parameters, so that one prepared statement serves every page size.
    if select.limit is not None:
        arguments.values.append(select.limit)
        sql += f" LIMIT ${len(arguments.values)}"
    if select.offset:
        arguments.values.append(select.offset)
        sql += f" OFFSET ${len(arguments.values)}"
    return sql, arguments.values


def _match(
    layout: Layout,
    key: tuple[Any, ...],
    scope: Scope,
    expected: Expected,
    arguments: Arguments,
) -> str:
    """Return the condition for one row: key, scope and version."""
    sql = where(scope.where(layout.info, key), arguments)
    if expected is not ANY and layout.info.version is not None:
        version = layout.info.version
        sql += f" AND {layout.column(version)} = {arguments.add(version, expected)}"
    return sql


def _records(layout: Layout, rows: Sequence[Row], now: datetime | None) -> Sequence[Row]:
    """Return rows for COPY, with what an INSERT would let the server fill in."""
    if not layout.generated and not layout.json:
        return rows
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for name, sql in layout.generated.items():
        made = [now] * len(rows) if sql == NOW else [str(uuid4()) for _ in rows]
        columns[layout.info.index(name)] = made
    for position in layout.json:
        columns[position] = list(map(dump_json, columns[position]))
    return list(zip(*columns, strict=True))


def _chunks(layout: Layout, rows: Sequence[Row]) -> Iterator[list[Sequence[Any]]]:
    """Yield the columns of as many rows as one statement should carry."""
    places = [layout.info.index(name) for name in layout.given]
    sized = [n for n, name in enumerate(layout.given) if layout.cast(name) in _SIZED]
    for start in range(0, len(rows), _CHUNK_ROWS):
        columns: list[Sequence[Any]] = list(zip(*rows[start : start + _CHUNK_ROWS], strict=True))
        for position in layout.json:
            columns[position] = list(map(dump_json, columns[position]))
        yield from _halved([columns[place] for place in places], sized)


def _halved(columns: list[Sequence[Any]], sized: Sequence[int]) -> Iterator[list[Sequence[Any]]]:
    """Yield columns in parts of bounded size; ``sized`` are those whose values have a length."""
    size = sum(sum(map(len, filter(None, columns[place]))) for place in sized)
    count = len(columns[0])
    if size <= _CHUNK_BYTES or count == 1:
        yield columns
    else:
        yield from _halved([column[: count // 2] for column in columns], sized)
        yield from _halved([column[count // 2 :] for column in columns], sized)


def _affected(status: str) -> int:
    """Return the number of rows in a command tag such as ``INSERT 0 5``."""
    return int(status.rpartition(" ")[2])
