"""Checking queries against an entity, before anything reaches a backend."""

from dataclasses import dataclass
from typing import Any

from common.db.core._entity import EntityInfo
from common.db.core._kind import Kind
from common.db.core._names import shown
from common.db.core._query import (
    MAX_IN_VALUES,
    Comparison,
    Condition,
    In,
    IsNull,
    Junction,
    Match,
    Not,
    Order,
    Predicate,
    Query,
)
from common.errors import ValidationError


@dataclass(frozen=True)
class CheckedQuery:
    """A query whose fields exist and whose values fit; its order ends with the primary key."""

    where: Predicate | None
    order: tuple[Order, ...]


def check_query(info: EntityInfo[Any], condition: Condition, *, max_bytes: int) -> CheckedQuery:
    """Return the query with its values as they are stored.

    Args:
        info: The entity asked for.
        condition: The query, the condition alone, or ``None`` for all rows.
        max_bytes: Most bytes that one value may take.

    Raises:
        UnknownFieldError: A field does not exist; the message suggests the nearest.
        ValidationError: A value does not fit its field, naming the field, or the query is too
            large.
    """
    if isinstance(condition, Query):
        query = condition
    elif condition is None or isinstance(condition, Predicate):
        query = Query(condition)
    else:
        raise ValidationError(
            f"{shown(condition)} is no query: give Query(...) or F.field == value"
        )
    room = [MAX_IN_VALUES, max_bytes, max_bytes]
    where = None if query.where is None else _check(info, query.where, room)
    return CheckedQuery(where, _total_order(info, query.order_by))


def _check(info: EntityInfo[Any], node: Predicate, room: list[int]) -> Predicate:
    """Check ``node``; ``room``: values of `In` left, bytes left, most bytes of one value."""
    match node:
        case Junction():
            return type(node)(tuple(_check(info, part, room) for part in node.parts))
        case Not():
            return Not(_check(info, node.part, room))
        case IsNull():
            info.field(node.field)
            return node
        case Comparison():
            return type(node)(node.field, _value(info, node.field, node.value, room))
        case In():
            room[0] -= len(node.values)
            if room[0] < 0:
                raise ValidationError(
                    f"{node.field}: a query takes at most {MAX_IN_VALUES} values of in_()",
                    field=node.field,
                )
            values = tuple(_value(info, node.field, value, room) for value in node.values)
            if not values:
                info.field(node.field)
            return In(node.field, values)
        case Match():
            return type(node)(node.field, _text(info, node.field, node.text, room))
        case _:
            raise ValidationError(f"{shown(node)} is no condition that is known here")


def _value(info: EntityInfo[Any], name: str, value: object, room: list[int]) -> object:
    field = info.field(name)
    if value is None:
        raise ValidationError(
            f"{name}: nothing equals null or compares with it: use is_null()", field=name
        )
    if field.kind is Kind.JSON:
        raise ValidationError(f"{name} holds JSON, which cannot be compared", field=name)
    stored = field.check_value(value, max_bytes=room[2])
    _charge(name, stored, room)
    return stored


def _text(info: EntityInfo[Any], name: str, text: object, room: list[int]) -> str:
    field = info.field(name)
    if field.kind is not Kind.TEXT or field.enum is not None:
        raise ValidationError(f"{name} is no text to search in", field=name)
    stored = field.check_value(text, max_bytes=room[2])
    _charge(name, stored, room)
    return str(stored)


def _charge(name: str, stored: object, room: list[int]) -> None:
    if isinstance(stored, str | bytes):
        room[1] -= len(stored)
        if room[1] < 0:
            raise ValidationError(f"{name}: the query's values are too large", field=name)


def _total_order(info: EntityInfo[Any], order_by: tuple[Order, ...]) -> tuple[Order, ...]:
    seen: set[str] = set()
    for order in order_by:
        if info.field(order.field).kind is Kind.JSON:
            raise ValidationError(
                f"{order.field} holds JSON, which has no order", field=order.field
            )
        if order.field in seen:
            raise ValidationError(f"sorted by {order.field} twice", field=order.field)
        if order.nulls not in ("first", "last"):
            raise ValidationError(f'{order.field}: nulls come "first" or "last"', field=order.field)
        seen.add(order.field)
    return (*order_by, *(Order(name) for name in info.key if name not in seen))
