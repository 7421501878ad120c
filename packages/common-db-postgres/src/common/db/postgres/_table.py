"""SQLAlchemy tables for entities, so that migrations know them."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from common.db.core import EntityInfo, FieldInfo, Kind, entity_info
from common.db.postgres._layout import NEW_ETAG
from common.db.postgres._names import quote, shorten
from common.db.postgres._types import column_type

NAMING_CONVENTION: Final[Mapping[str, str]] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names of constraints; Alembic needs them to drop one, errors report them."""


def new_metadata(schema: str | None = None) -> sa.MetaData:
    """Return metadata with the naming convention."""
    return sa.MetaData(schema=schema, naming_convention=dict(NAMING_CONVENTION))


def table_for(
    entity: type[Any] | EntityInfo[Any], metadata: sa.MetaData, *, schema: str | None = None
) -> sa.Table:
    """Return the table of an entity, and add it to ``metadata``.

    Text is collated by code point ("C"). Uniqueness of entities with soft delete counts only rows
    that are not deleted. Tenant fields get one composite index, ``ix_<table>_tenant``.

    Args:
        entity: A class declared with `common.db.core.entity`, or its `EntityInfo`.
        metadata: Where it belongs; see `new_metadata`.
        schema: The table's schema; by default that of ``metadata``.

    Raises:
        EntityDefinitionError: The class cannot be stored.

    Example:
        >>> from dataclasses import dataclass
        >>> from common.db.core import entity
        >>> @entity(table="calls", unique=[("number",)])
        ... @dataclass
        ... class Call:
        ...     id: int
        ...     number: str
        >>> sorted(str(each.name) for each in table_for(Call, new_metadata()).constraints)
        ['pk_calls', 'uq_calls_number']
    """
    info = entity if isinstance(entity, EntityInfo) else entity_info(entity)
    quote(info.table)
    known = metadata.tables.get(f"{schema}.{info.table}" if schema else info.table)
    if known is not None:
        return known
    table = sa.Table(
        info.table,
        metadata,
        *(_column(info, field) for field in info.fields),
        sa.PrimaryKeyConstraint(*info.key, name=shorten(info.primary_key)),
        schema=schema,
    )
    add_constraints(info, table)
    return table


def add_constraints(
    info: EntityInfo[Any], table: sa.Table, names: Mapping[str, str] | None = None
) -> None:
    """Add the unique constraints and the tenant index that an entity declares.

    Args:
        info: The entity.
        table: Its table.
        names: Names of the columns, by field; ``None`` where they are the same.
    """

    def column(field: str) -> sa.Column[Any]:
        return table.c[field if names is None else names[field]]

    for unique in info.unique:
        columns = [column(name) for name in unique.fields]
        name = shorten(info.constraint_name(unique))
        if info.deleted is None:
            table.append_constraint(sa.UniqueConstraint(*columns, name=name))
        else:
            live = column(info.deleted).is_(None)
            sa.Index(name, *columns, unique=True, postgresql_where=live)
    if info.tenant and tuple(info.key[: len(info.tenant)]) != info.tenant:
        columns = [column(name) for name in info.tenant]
        sa.Index(shorten(f"ix_{info.table}_tenant"), *columns)


def _column(info: EntityInfo[Any], field: FieldInfo) -> sa.Column[Any]:
    default: Any = None
    if field.name in (info.created, info.updated):
        default = sa.func.now()
    elif field.name == info.version:
        default = sa.text("1" if field.kind is Kind.INT else NEW_ETAG)
    return sa.Column(
        field.name,
        column_type(field),
        nullable=field.nullable,
        server_default=default,
        autoincrement=False,
    )
