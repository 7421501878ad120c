"""Which column type holds which kind of field."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from common.db.core import EntityDefinitionError, FieldInfo, Kind

CASTS: Final[Mapping[Kind, str]] = {
    Kind.BOOL: "boolean",
    Kind.INT: "bigint",
    Kind.FLOAT: "double precision",
    Kind.DECIMAL: "numeric",
    Kind.TEXT: "text",
    Kind.BYTES: "bytea",
    Kind.UUID: "uuid",
    Kind.DATETIME: "timestamptz",
    Kind.DATE: "date",
    Kind.JSON: "jsonb",
}
"""Types of parameters."""

_MAX_VARCHAR: Final = 10_485_760

_KINDS: Final[tuple[tuple[type[Any], Kind], ...]] = (
    (sa.Boolean, Kind.BOOL),
    (sa.Integer, Kind.INT),
    (sa.Double, Kind.FLOAT),
    (sa.Float, Kind.FLOAT),
    (sa.Numeric, Kind.DECIMAL),
    (sa.Uuid, Kind.UUID),
    (sa.LargeBinary, Kind.BYTES),
    (sa.DateTime, Kind.DATETIME),
    (sa.Date, Kind.DATE),
    (sa.JSON, Kind.JSON),
    (sa.String, Kind.TEXT),
)


_COLUMNS: Final[Mapping[Kind, Callable[[], sa.types.TypeEngine[Any]]]] = {
    Kind.BOOL: sa.Boolean,
    Kind.INT: sa.BigInteger,
    Kind.FLOAT: sa.Double,
    Kind.DECIMAL: sa.Numeric,
    Kind.BYTES: sa.LargeBinary,
    Kind.UUID: sa.Uuid,
    Kind.DATETIME: lambda: sa.DateTime(timezone=True),
    Kind.DATE: sa.Date,
    Kind.JSON: lambda: JSONB(none_as_null=True),
}


def column_type(field: FieldInfo) -> sa.types.TypeEngine[Any]:
    """Return the type of the column for a field."""
    if field.kind is not Kind.TEXT:
        return _COLUMNS[field.kind]()
    # By code point, as the contract sorts text; also the fastest there is.
    if field.max_length is not None and field.max_length <= _MAX_VARCHAR:
        return sa.String(field.max_length, "C")
    return sa.Text(collation="C")


def kind_of(column: sa.Column[Any], entity: str) -> Kind:
    """Return the kind of field that a column holds.

    Raises:
        EntityDefinitionError: It holds none; the message says what to use instead.
    """
    type_ = column.type
    if isinstance(type_, sa.TypeDecorator) and not isinstance(type_, sa.Interval):
        type_ = type_.impl_instance
    if isinstance(type_, sa.Enum):
        return _enum_kind(type_, column, entity)
    if isinstance(type_, sa.DateTime) and not type_.timezone:
        raise _unfit(column, entity, "use DateTime(timezone=True)")
    if isinstance(type_, sa.Uuid) and not type_.as_uuid:
        raise _unfit(column, entity, "use Uuid(as_uuid=True)")
    if isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float) and not type_.asdecimal:
        raise _unfit(column, entity, "use Double(), or Numeric(asdecimal=True)")
    for class_, kind in _KINDS:
        if isinstance(type_, class_):
            return kind
    raise _unfit(column, entity, "use a type of text, number, time, UUID, bytes or JSON")


def _enum_kind(type_: sa.Enum, column: sa.Column[Any], entity: str) -> Kind:
    if type_.native_enum:
        raise _unfit(column, entity, "use Enum(..., native_enum=False): text is easier to migrate")
    members = type_.enum_class or ()
    if list(type_.enums) != [str(member.value) for member in members]:
        raise _unfit(column, entity, "use Enum(..., values_callable=values): names are not stored")
    return Kind.TEXT


def _unfit(column: sa.Column[Any], entity: str, hint: str) -> EntityDefinitionError:
    return EntityDefinitionError(
        f"{entity}.{column.key} cannot be stored as {column.type!r}: {hint}", entity=entity
    )
