"""Which column type holds which kind of field."""

from collections.abc import Callable, Mapping, Sequence
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

_HOOKS: Final = (
    "bind_expression",
    "bind_processor",
    "column_expression",
    "process_bind_param",
    "process_result_value",
    "result_processor",
)
"""Where a type of SQLAlchemy may convert values, which asyncpg alone does not know of."""

_SINGLE_BITS: Final = 24
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


def _is_single(type_: Any) -> bool:
    if not isinstance(type_, sa.Float) or isinstance(type_, sa.Double):
        return False
    # PostgreSQL documentation, 8.1.3: float(1) to float(24) are real.
    return isinstance(type_, sa.REAL) or 0 < (type_.precision or 0) <= _SINGLE_BITS


def _is_inexact(type_: Any) -> bool:
    return isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float) and not type_.asdecimal


_WRONG: Final[Sequence[tuple[Callable[[Any], bool], str]]] = (
    (lambda type_: isinstance(type_, sa.CHAR), "use String(): CHAR comes back padded with blanks"),
    (_is_single, "use Double(): single precision changes the value"),
    (_is_inexact, "use Double(), or Numeric(asdecimal=True)"),
    (
        lambda type_: isinstance(type_, sa.DateTime) and not type_.timezone,
        "use DateTime(timezone=True)",
    ),
    (
        lambda type_: isinstance(type_, sa.Uuid) and not (type_.as_uuid and type_.native_uuid),
        "use Uuid(as_uuid=True), the server's own type",
    ),
)
"""Types whose values would come back as others, and what to use instead."""


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
    if column.computed is not None or (column.identity is not None and column.identity.always):
        raise _unfit(column, entity, "repositories write every column, this one only the server")
    if isinstance(type_, sa.TypeDecorator) and not isinstance(type_, sa.Interval):
        if any(
            getattr(type(type_), hook) is not getattr(sa.TypeDecorator, hook) for hook in _HOOKS
        ):
            raise _unfit(column, entity, "repositories would bypass its conversion: map its impl")
        type_ = type_.impl_instance
    if isinstance(type_, sa.Enum):
        return _enum_kind(type_, column, entity)
    for wrong, hint in _WRONG:
        if wrong(type_):
            raise _unfit(column, entity, hint)
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
