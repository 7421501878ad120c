"""What is known about a stored class: its table, fields, key, and fields with a role."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Generic, TypeAlias, TypeVar

from common.db.core._errors import EntityDefinitionError
from common.db.core._field import FieldInfo
from common.db.core._kind import Kind
from common.db.core._names import unknown_field
from common.errors import ValidationError

E = TypeVar("E")

Row: TypeAlias = Sequence[Any]
"""Stored values in the order of `EntityInfo.names`."""

MAX_KEY_BYTES: Final = 1023
"""Longest text or bytes in a primary key; the limit of an item's id in Azure Cosmos DB."""


@dataclass(frozen=True)
class Unique:
    """A unique constraint; rows with a null in one of ``fields`` never collide (SQL)."""

    fields: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class EntityInfo(Generic[E]):
    """Everything a backend knows about an entity.

    Args:
        entity: The class.
        table: Name of its table, container or folder.
        fields: Its fields; a `Row` has their order.
        key: Names of the primary key's fields.
        version: Name of the version field: an int that the backend counts up from 1, or text
            that the backend makes (an etag).
        tenant: Names of the fields that say whose row it is.
        deleted: Name of the nullable datetime field that marks a row as deleted.
        created: Name of the datetime field that the backend sets on insert.
        updated: Name of the datetime field that the backend sets on each write.
        unique: Constraints besides the primary key. With ``deleted``, deleted rows do not count.
        build: Makes entities from rows.

    Raises:
        EntityDefinitionError: The parts do not fit together.
    """

    entity: type[E]
    table: str
    fields: tuple[FieldInfo, ...]
    key: tuple[str, ...]
    version: str | None = None
    tenant: tuple[str, ...] = ()
    deleted: str | None = None
    created: str | None = None
    updated: str | None = None
    unique: tuple[Unique, ...] = ()
    build: Callable[[Sequence[Row]], list[E]] = field(repr=False)

    def __post_init__(self) -> None:
        _verify(self)

    @property
    def name(self) -> str:
        """The class's name, for messages."""
        return self.entity.__name__

    @property
    def primary_key(self) -> str:
        """Name of the primary key's constraint."""
        return f"pk_{self.table}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in the order of a row."""
        return tuple(each.name for each in self.fields)

    @cached_property
    def managed(self) -> frozenset[str]:
        """Names of the fields that only the library and the backend set."""
        roles = (self.version, self.deleted, self.created, self.updated)
        return frozenset(name for name in roles if name is not None)

    def field(self, name: str) -> FieldInfo:
        """Return the field with this name.

        Raises:
            UnknownFieldError: There is none; the message suggests the nearest.
        """
        try:
            return self._by_name[name]
        except (KeyError, TypeError):
            raise unknown_field(self.name, name, self.names) from None

    def index(self, name: str) -> int:
        """Return the position of a field in a row."""
        return self._positions[name]

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """Return the primary key's values of a row."""
        return tuple([row[position] for position in self._key_positions])

    def constraint_name(self, unique: Unique) -> str:
        """Return the name of a unique constraint, ``uq_<table>_<fields>`` unless given."""
        return unique.name or "_".join(("uq", self.table, *unique.fields))

    def to_row(self, entity: E, *, max_bytes: int = 1 << 20) -> tuple[Any, ...]:
        """Return the entity's values as they are to be inserted.

        Raises:
            ValidationError: A value does not fit its field, or the entity is of another class.
        """
        return self.to_rows((entity,), max_bytes=max_bytes)[0]

    def to_rows(self, entities: Sequence[E], *, max_bytes: int = 1 << 20) -> list[tuple[Any, ...]]:
        """Return many entities' values as they are to be inserted; see `to_row`."""
        if not entities:
            return []
        for type_ in set(map(type, entities)):
            if not issubclass(type_, self.entity):
                raise ValidationError(f"expected {self.name}, got {type_.__name__}")
        columns = [self._column(each, entities, max_bytes) for each in self.fields]
        return list(zip(*columns, strict=True))

    def build_many(self, rows: Sequence[Row]) -> list[E]:
        """Return the entities that rows hold.

        Raises:
            StoredDataError: A row does not fit the class.
        """
        return self.build(rows) if rows else []

    def _column(self, each: FieldInfo, entities: Sequence[E], max_bytes: int) -> Sequence[object]:
        # Column by column: reading and checking are fastest so.
        if each.name in self.managed and each.name != self.deleted:
            counted = each.name == self.version and each.kind is Kind.INT
            return [1 if counted else None] * len(entities)
        try:
            values: list[object] = list(map(attrgetter(each.name), entities))
        except AttributeError:
            raise ValidationError(f"an instance of {self.name} lacks a field") from None
        if each.name == self.deleted:
            if any(value is not None for value in values):
                raise ValidationError(
                    f"{each.name} must be null here: use delete() to delete", field=each.name
                )
            return values
        limit = min(max_bytes, MAX_KEY_BYTES) if each.name in self.key else max_bytes
        return each.check_all(values, max_bytes=limit)

    @cached_property
    def _by_name(self) -> Mapping[str, FieldInfo]:
        return {each.name: each for each in self.fields}

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def _key_positions(self) -> tuple[int, ...]:
        return tuple(self.index(name) for name in self.key)


def _verify(info: EntityInfo[Any]) -> None:
    """Refuse what no backend could store rightly."""
    by_name = {each.name: each for each in info.fields}
    unique = [name for each in info.unique for name in each.fields]
    optional = (info.version, info.deleted, info.created, info.updated)
    roles = [name for name in optional if name is not None]
    for name in (*info.key, *info.tenant, *roles, *unique):
        if name not in by_name:
            raise unknown_field(info.name, name, by_name)
    if not info.key:
        raise _bad(info, "it has no primary key: name one with key=")
    if not info.table or not info.table.isprintable():
        raise _bad(info, "its table needs a name of printable characters")
    if len(by_name) != len(info.fields):
        raise _bad(info, "two fields have the same name")
    if len({*roles, *info.key}) != len(roles) + len(info.key) or set(roles) & set(info.tenant):
        raise _bad(info, "one field has two roles")
    for name in (*info.key, *info.tenant):
        if by_name[name].nullable or by_name[name].kind in (Kind.JSON, Kind.FLOAT):
            raise _bad(info, f"{name!r} must be neither nullable nor float nor JSON")
    _verify_kinds(info, by_name)


def _verify_kinds(info: EntityInfo[Any], by_name: Mapping[str, FieldInfo]) -> None:
    if info.version and by_name[info.version].kind not in (Kind.INT, Kind.TEXT):
        raise _bad(info, f"the version {info.version!r} must be an int, or text for an etag")
    for name in (info.deleted, info.created, info.updated):
        if name and by_name[name].kind is not Kind.DATETIME:
            raise _bad(info, f"{name!r} must be a datetime")
    if info.deleted and not by_name[info.deleted].nullable:
        raise _bad(info, f"{info.deleted!r} must be nullable: datetime | None")


def _bad(info: EntityInfo[Any], why: str) -> EntityDefinitionError:
    return EntityDefinitionError(f"{info.name} cannot be stored: {why}", entity=info.name)


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)
