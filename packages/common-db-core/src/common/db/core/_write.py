"""Checks that every write makes, and what it means in stored values."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar

from common.db.core._entity import MAX_KEY_BYTES, EntityInfo, Row
from common.db.core._errors import TenantMismatchError
from common.db.core._kind import Kind
from common.db.core._names import shown
from common.db.core._query import And, Field, Predicate
from common.db.core._select import Scope
from common.db.core._version import ANY
from common.errors import ValidationError

E = TypeVar("E")


def check_key(info: EntityInfo[Any], key: object) -> tuple[Any, ...]:
    """Return a primary key as a tuple of stored values."""
    values = (key,) if len(info.key) == 1 else key
    if not isinstance(values, tuple) or len(values) != len(info.key):
        raise ValidationError(
            f"the key of {info.name} is a tuple of {', '.join(info.key)}", field=info.key[0]
        )
    return tuple(
        # Not check(): rows from before a constraint was declared can still be deleted.
        info.field(name).check_value(value, max_bytes=MAX_KEY_BYTES)
        for name, value in zip(info.key, values, strict=True)
    )


def check_expected(info: EntityInfo[Any], expected: object) -> None:
    """Refuse a version that the entity cannot have."""
    if expected is ANY:
        return
    if info.version is None:
        raise ValidationError(
            f"{info.name} has no version field: declare one, or write expected=ANY",
            field="expected",
        )
    wanted = int if info.field(info.version).kind is Kind.INT else str
    if type(expected) is not wanted:
        raise ValidationError(
            f"expected must be the {wanted.__name__} that was read, or ANY", field="expected"
        )
    info.field(info.version).check(expected, max_bytes=MAX_KEY_BYTES)


def check_changes(info: EntityInfo[Any], changes: object, *, max_bytes: int) -> dict[str, object]:
    """Return changes as stored values; refuse fields that are not the caller's to change."""
    if not isinstance(changes, Mapping):
        raise ValidationError("changes must map names of fields to values", field="changes")
    checked: dict[str, object] = {}
    for name, value in changes.items():
        field = info.field(name)
        if name in info.key:
            raise ValidationError(f"{name} is the key, which never changes", field=name)
        if name in info.tenant:
            raise ValidationError(f"{name} says whose row it is, and never changes", field=name)
        if name in info.managed:
            raise ValidationError(f"{name} is set by the database's side alone", field=name)
        checked[name] = field.check(value, max_bytes=max_bytes)
    return checked


def check_tenants(info: EntityInfo[Any], rows: Sequence[Row], scope: Scope) -> None:
    """Refuse rows of another tenant than the repository's."""
    for name, value in scope.tenant:
        position = info.index(name)
        if [row[position] for row in rows].count(value) != len(rows):
            raise TenantMismatchError(
                f"this repository is bound to another {name} than the {info.name} carries",
                entity=info.name,
            )


def bounded(entities: Iterable[E], most: int) -> list[E]:
    """Return the entities of one bulk call, unless they are too many."""
    if not isinstance(entities, Iterable):
        raise ValidationError("give several entities, as a list", field="entities")
    taken = list(itertools.islice(entities, most + 1))
    if len(taken) > most:
        raise ValidationError(
            f"at most {most} entities fit into one bulk call: make several", field="entities"
        )
    return taken


def overwriting(info: EntityInfo[Any], row: Row) -> tuple[dict[str, Any], Scope]:
    """Return the changes that make a stored row equal ``row``, and the scope it must be in."""
    fixed = {*info.key, *info.tenant, *info.managed}
    changes = {name: row[info.index(name)] for name in info.names if name not in fixed}
    tenant = tuple((name, row[info.index(name)]) for name in info.tenant)
    return changes, Scope(tenant, info.deleted)


def deletion(info: EntityInfo[Any]) -> dict[str, Any]:
    """Return the change that marks a row as deleted; none where rows are removed."""
    return {} if info.deleted is None else {info.deleted: datetime.now(UTC)}


def repeated_key(info: EntityInfo[Any], rows: Sequence[Row]) -> bool:
    """Tell whether two rows have the same primary key."""
    key_of = itemgetter(*map(info.index, info.key))
    return len(set(map(key_of, rows))) != len(rows)


def equality(filters: object) -> Predicate | None:
    """Return the condition that fields have the values of a mapping."""
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise ValidationError("filters must map names of fields to values", field="filters")
    parts: list[Predicate] = []
    for name, value in filters.items():
        if not isinstance(name, str):
            raise ValidationError(f"{shown(name)} is no name of a field", field="filters")
        several = isinstance(value, list | tuple | set | frozenset)
        parts.append(Field(name).in_(value) if several else Field(name) == value)
    return And(tuple(parts)) if parts else None
