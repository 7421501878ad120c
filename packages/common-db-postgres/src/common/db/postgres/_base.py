"""`Base` for mapped classes, and the mixins that give fields their roles."""

import enum
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.instrumentation import ClassManager, manager_of_class
from sqlalchemy.orm.state import InstanceState

from common.db.core import EntityDefinitionError, EntityInfo, FieldInfo, Kind, Row, Unique
from common.db.postgres._table import add_constraints, new_metadata
from common.db.postgres._types import kind_of

E = TypeVar("E")


def _values(members: type[enum.Enum]) -> list[str]:
    return [str(member.value) for member in members]


class TimestampMixin:
    """``created_at`` and ``updated_at``, set by the server."""

    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), sort_order=900
    )
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True),
        server_default=sa.func.now(),
        onupdate=sa.func.now(),
        sort_order=901,
    )


class SoftDeleteMixin:
    """``deleted_at``: deleting marks a row, and marked rows do not exist for repositories.

    Uniqueness counts only rows that are not marked.
    """

    deleted_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime(timezone=True), default=None, sort_order=902
    )


class TenantMixin:
    """``merchant_id`` and ``domain``: whose row it is, with one index, ``ix_<table>_tenant``."""

    merchant_id: Mapped[str] = mapped_column(sa.String(255, "C"), sort_order=-900)
    domain: Mapped[str] = mapped_column(sa.String(255, "C"), sort_order=-899)


class VersionMixin:
    """``version``: counts the writes of a row, so that no update is lost."""

    version: Mapped[int] = mapped_column(
        sa.BigInteger, default=1, server_default=sa.text("1"), sort_order=903
    )


_ROLES: Mapping[type[Any], Mapping[str, Any]] = {
    TimestampMixin: {"created": "created_at", "updated": "updated_at"},
    SoftDeleteMixin: {"deleted": "deleted_at"},
    TenantMixin: {"tenant": ("merchant_id", "domain")},
    VersionMixin: {"version": "version"},
}


class Base(DeclarativeBase):
    """Base of mapped classes that repositories can store.

    Constraints are named by `NAMING_CONVENTION`, text is collated by code point, an enumeration
    is text. Each concrete class is an entity of `common.db.core`: its roles come from the mixins,
    and ``__unique__`` lists its unique constraints, which are partial with `SoftDeleteMixin`.
    An instance has its Python-side defaults from the start, not only after a flush.

    Subclass it once to have metadata of your own.

    Example:
        >>> class Records(Base):
        ...     __abstract__ = True
        ...     metadata = new_metadata()
        >>> class Agent(TimestampMixin, SoftDeleteMixin, Records):
        ...     __tablename__ = "agents"
        ...     __unique__ = (("name",),)
        ...     id: Mapped[int] = mapped_column(primary_key=True)
        ...     name: Mapped[str]
        >>> [str(index.name) for index in Agent.__table__.indexes]
        ['uq_agents_name']
    """

    __abstract__ = True
    __unique__: ClassVar[Sequence[Sequence[str] | Unique]] = ()
    metadata = new_metadata()
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        bool: sa.Boolean(),
        bytes: sa.LargeBinary(),
        date: sa.Date(),
        datetime: sa.DateTime(timezone=True),
        Decimal: sa.Numeric(),
        dict[str, Any]: JSONB(none_as_null=True),
        enum.Enum: sa.Enum(enum.Enum, native_enum=False, values_callable=_values, length=64),
        float: sa.Double(),
        int: sa.BigInteger(),
        list[Any]: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
        str: sa.Text(collation="C"),
        UUID: sa.Uuid(),
    }

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__table__" in cls.__dict__:
            info = _describe(cls)
            cls.__common_mapped__ = info
            add_constraints(info, info.entity.__table__, _columns_of(cls))

    def __init__(self, **values: Any) -> None:
        cls = type(self)
        for name, make in _defaults_of(cls):
            if name not in values:
                values[name] = make()
        for name, value in values.items():
            if not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} has no attribute {name!r}")
            setattr(self, name, value)

    __common_mapped__: ClassVar[Any]

    @classmethod
    def __entity_info__(cls) -> EntityInfo[Self]:
        """Return the entity that repositories store."""
        info: EntityInfo[Self] | None = cls.__dict__.get("__common_mapped__")
        if info is None:
            raise EntityDefinitionError(
                f"{cls.__name__} has no table: give it a __tablename__", entity=cls.__name__
            )
        return info


def _columns_of(cls: type[Any]) -> dict[str, str]:
    return {each.key: each.columns[0].key for each in sa.inspect(cls).column_attrs}


def _describe(cls: type[Any]) -> EntityInfo[Any]:
    table: sa.Table = cls.__table__
    roles: dict[str, Any] = {}
    for mixin, parts in _ROLES.items():
        if issubclass(cls, mixin):
            roles |= parts
    fields: list[FieldInfo] = []
    names: dict[str, str] = {}
    mapper = sa.inspect(cls)
    if mapper.inherits is not None:
        raise EntityDefinitionError(
            f"{cls.__name__} spreads over the tables of {mapper.inherits.class_.__name__} and its "
            "own: a repository stores one table",
            entity=cls.__name__,
        )
    for attribute in mapper.column_attrs:
        column: Any = attribute.columns[0]
        if not isinstance(column, sa.Column):
            raise EntityDefinitionError(
                f"{cls.__name__}.{attribute.key} is an expression: leave it to select()",
                entity=cls.__name__,
            )
        names[column.key] = attribute.key
        fields.append(_field(cls.__name__, attribute.key, column))
    if "deleted" in roles:
        _refuse_total_uniqueness(cls.__name__, table)
    unique = tuple(
        each if isinstance(each, Unique) else Unique(tuple(each)) for each in cls.__unique__
    )
    return EntityInfo(
        entity=cls,
        table=table.name,
        fields=tuple(fields),
        key=tuple(names[column.key] for column in table.primary_key.columns),
        unique=unique,
        build=_builder(cls, fields, [names[column.key] for column in table.primary_key.columns]),
        **roles,
    )


def _field(entity: str, name: str, column: sa.Column[Any]) -> FieldInfo:
    kind = kind_of(column, entity)
    type_ = column.type
    return FieldInfo(
        name=name,
        kind=kind,
        nullable=bool(column.nullable),
        max_length=getattr(type_, "length", None) if kind in (Kind.TEXT, Kind.BYTES) else None,
        enum=type_.enum_class if isinstance(type_, sa.Enum) else None,
        annotation=Any,
    )


def _refuse_total_uniqueness(entity: str, table: sa.Table) -> None:
    total: list[Any] = [each for each in table.constraints if isinstance(each, sa.UniqueConstraint)]
    total += [
        each
        for each in table.indexes
        if each.unique and each.dialect_options["postgresql"].get("where") is None
    ]
    for each in total:
        raise EntityDefinitionError(
            f"{each.name} of {entity} would count deleted rows: name its fields in __unique__",
            entity=entity,
        )


def _builder(
    cls: type[E], fields: Sequence[FieldInfo], key: Sequence[str]
) -> Callable[[Sequence[Row]], list[E]]:
    """Return what makes detached instances, without a session and without tracking."""
    names = tuple(each.name for each in fields)
    places = tuple(names.index(name) for name in key)
    enums = [(place, each.members) for place, each in enumerate(fields) if each.enum is not None]
    manager: ClassManager[Any] = manager_of_class(cls)
    new = cls.__new__

    def build(rows: Sequence[Row]) -> list[E]:
        identity = sa.inspect(cls).identity_key_from_primary_key
        built: list[E] = []
        for row in rows:
            entity = new(cls)
            values = entity.__dict__
            values.update(zip(names, row, strict=True))
            for place, members in enums:
                if row[place] is not None:
                    values[names[place]] = members[row[place]]
            state = InstanceState(entity, manager)
            values["_sa_instance_state"] = state
            state.key = identity([row[place] for place in places])
            built.append(entity)
        return built

    return build


def _defaults_of(cls: type[Any]) -> list[tuple[str, Callable[[], Any]]]:
    cached: list[tuple[str, Callable[[], Any]]] | None = cls.__dict__.get("__common_defaults__")
    if cached is None:
        cached = []
        for attribute in sa.inspect(cls).column_attrs:
            default: Any = attribute.columns[0].default
            if default is None:
                continue
            if default.is_scalar:
                cached.append((attribute.key, itertools.repeat(default.arg).__next__))
            elif default.is_callable:
                cached.append((attribute.key, _call(default.arg)))
        cls.__common_defaults__ = cached
    return cached


def _call(make: Callable[[Any], Any]) -> Callable[[], Any]:
    # SQLAlchemy wraps every callable so that it takes the execution context.
    return lambda: make(None)
