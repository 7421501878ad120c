"""How an entity lies in its table: quoted names, and the statements that never change."""

from functools import cached_property
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from common.db.core import EntityInfo, Kind, Row, Scope
from common.db.postgres._connect import dump_json
from common.db.postgres._names import quote
from common.db.postgres._types import CASTS

NOW: Final = "now()"
NEW_ETAG: Final = "gen_random_uuid()::text"


class Layout:
    """The table of one entity, seen from SQL.

    Args:
        info: The entity.
        schema: Schema of the table, unless the entity's own table names one.
    """

    def __init__(self, info: EntityInfo[Any], schema: str | None) -> None:
        table: sa.Table | None = getattr(info.entity, "__table__", None)
        self.info = info
        self.schema = (table.schema if table is not None else None) or schema
        names = {} if table is None else columns_of(info.entity)
        self.names = tuple(names.get(name, name) for name in info.names)
        self._quoted = {
            field: quote(column) for field, column in zip(info.names, self.names, strict=True)
        }
        self.table = quote(info.table)
        if self.schema is not None:
            self.table = f"{quote(self.schema)}.{self.table}"
        self._casts = {each.name: CASTS[each.kind] for each in info.fields}
        self.json = tuple(
            position for position, each in enumerate(info.fields) if each.kind is Kind.JSON
        )
        self._gets: dict[tuple[tuple[str, ...], str | None], str] = {}

    def column(self, field: str) -> str:
        """Return the quoted column of a field."""
        return self._quoted[field]

    def ordered(self, field: str) -> str:
        """Return the column as it is sorted and compared: text by code point."""
        column = self._quoted[field]
        return f'{column} COLLATE "C"' if self._casts[field] == "text" else column

    def cast(self, field: str) -> str:
        """Return the type of parameters for a field."""
        return self._casts[field]

    @cached_property
    def columns(self) -> str:
        """All columns, in the order of a row."""
        return ", ".join(self._quoted.values())

    @cached_property
    def select(self) -> str:
        """``SELECT columns FROM table``."""
        return f"SELECT {self.columns} FROM {self.table}"  # noqa: S608 - names are quoted

    def get(self, scope: Scope) -> str:
        """Return the statement that reads one row; its arguments are the key and the tenant."""
        shape = (tuple(name for name, _ in scope.tenant), scope.deleted)
        found = self._gets.get(shape)
        if found is None:
            fields = (*self.info.key, *shape[0])
            parts = [
                f"{self.column(name)} = ${place}::{self.cast(name)}"
                for place, name in enumerate(fields, 1)
            ]
            if scope.deleted is not None:
                parts.append(f"{self.column(scope.deleted)} IS NULL")
            found = self._gets[shape] = f"{self.select} WHERE {' AND '.join(parts)}"
        return found

    # Writing

    def encode(self, row: Row) -> Row:
        """Return the row with JSON as text."""
        if not self.json:
            return row
        values = list(row)
        for position in self.json:
            values[position] = dump_json(values[position])
        return values

    def encode_value(self, field: str, value: object) -> object:
        """Return one field's value with JSON as text."""
        return dump_json(value) if self._casts[field] == "jsonb" else value

    @cached_property
    def generated(self) -> dict[str, str]:
        """What an insert writes into the fields that the server fills."""
        info = self.info
        made = dict.fromkeys((name for name in (info.created, info.updated) if name), NOW)
        if info.version is not None and info.field(info.version).kind is Kind.TEXT:
            made[info.version] = NEW_ETAG
        return made

    @cached_property
    def stamped(self) -> bool:
        """Whether an insert writes the server's time."""
        return NOW in self.generated.values()

    @cached_property
    def given(self) -> tuple[str, ...]:
        """Fields whose values come with a row."""
        return tuple(name for name in self.info.names if name not in self.generated)

    @cached_property
    def pick(self) -> Any:
        """Takes the values of `given` from a row, as a tuple."""
        places = [self.info.index(name) for name in self.given]
        if len(places) == len(self.info.names):
            return None
        if len(places) == 1:
            return lambda row: (row[places[0]],)
        return itemgetter(*places)

    @cached_property
    def sort_key(self) -> Any:
        """Puts rows into an order by their primary key, whichever is the fastest."""
        places = [self.info.index(name) for name in self.info.key]
        if all(self.info.fields[place].kind is not Kind.UUID for place in places):
            return itemgetter(*places)
        if len(places) == 1:
            # Comparing ints takes a tenth of the time of comparing UUIDs.
            return lambda row, place=places[0]: row[place].int
        return self.info.key_of

    @cached_property
    def _into(self) -> str:
        fields = (*self.given, *self.generated)
        return f"INSERT INTO {self.table} AS t ({', '.join(map(self.column, fields))})"

    @cached_property
    def _values(self) -> str:
        given = [f"${place}::{self.cast(name)}" for place, name in enumerate(self.given, 1)]
        return f" VALUES ({', '.join((*given, *self.generated.values()))})"

    @cached_property
    def insert(self) -> str:
        """Insert one row."""
        return f"{self._into}{self._values} RETURNING {self.columns}"

    @cached_property
    def upsert(self) -> str:
        """Insert one row or overwrite the one with its key."""
        return f"{self._into}{self._values}{self._on_conflict} RETURNING {self._of_table}"

    @cached_property
    def upsert_many(self) -> str:
        """Upsert rows that come as an array for each column."""
        arrays = ", ".join(
            f"${place}::{self.cast(name)}[]" for place, name in enumerate(self.given, 1)
        )
        aliases = [f"u{place}" for place in range(len(self.given))]
        values = ", ".join((*aliases, *self.generated.values()))
        return (
            f"{self._into} SELECT {values} "  # noqa: S608 - names are quoted
            f"FROM unnest({arrays}) AS u({', '.join(aliases)}){self._on_conflict}"
        )

    @cached_property
    def _of_table(self) -> str:
        return ", ".join(f"t.{column}" for column in self._quoted.values())

    @cached_property
    def _on_conflict(self) -> str:
        info = self.info
        kept = {*info.key, info.created}
        changes = [
            f"{self.column(name)} = {self._overwritten(name)}"
            for name in info.names
            if name not in kept
        ]
        if not changes:
            key = self.column(info.key[0])
            changes.append(f"{key} = EXCLUDED.{key}")
        guards = [f"t.{self.column(name)} = EXCLUDED.{self.column(name)}" for name in info.tenant]
        if info.deleted is not None:
            guards.append(f"t.{self.column(info.deleted)} IS NULL")
        condition = f" WHERE {' AND '.join(guards)}" if guards else ""
        key = ", ".join(map(self.column, info.key))
        return f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}{condition}"

    def _overwritten(self, name: str) -> str:
        changed = self.touched.get(name)
        if changed is not None:
            return changed
        return f"EXCLUDED.{self.column(name)}"

    @cached_property
    def guarded(self) -> bool:
        """Whether an upsert may meet a row that it must not overwrite."""
        return bool(self.info.tenant) or self.info.deleted is not None

    @cached_property
    def touched(self) -> dict[str, str]:
        """What every overwrite of a row sets, by field."""
        info = self.info
        changes = {}
        if info.updated is not None:
            changes[info.updated] = NOW
        if info.version is not None:
            text = info.field(info.version).kind is Kind.TEXT
            changes[info.version] = NEW_ETAG if text else f"t.{self.column(info.version)} + 1"
        return changes


def columns_of(entity: type[Any]) -> dict[str, str]:
    """Return the column of each attribute of a mapped class."""
    return {each.key: str(each.columns[0].name) for each in sa.inspect(entity).column_attrs}
