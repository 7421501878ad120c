"""Judging rows in memory: three-valued logic and explicit null order, as SQL has them."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from common.db.core._compile import Compiler
from common.db.core._entity import EntityInfo, Row
from common.db.core._query import (
    And,
    Contains,
    EndsWith,
    Eq,
    Ge,
    Gt,
    In,
    IsNull,
    Le,
    Lt,
    Ne,
    Not,
    Or,
    Order,
    Predicate,
    StartsWith,
)

Truth: TypeAlias = bool | None
"""``None`` is SQL's *unknown*."""

Judge: TypeAlias = Callable[[Row], Truth]

_memory: Final = Compiler[EntityInfo[Any], Judge]("memory")

# Python compares str by code point, which is the order of UTF-8 bytes (collation "C").
_OPERATORS: Final[dict[type[Predicate], Callable[[Any, Any], bool]]] = {
    Eq: lambda value, other: value == other,
    Ne: lambda value, other: value != other,
    Lt: lambda value, other: value < other,
    Le: lambda value, other: value <= other,
    Gt: lambda value, other: value > other,
    Ge: lambda value, other: value >= other,
    Contains: lambda value, text: text in value,
    StartsWith: lambda value, text: value.startswith(text),
    EndsWith: lambda value, text: value.endswith(text),
}


@_memory.on(Eq, Ne, Lt, Le, Gt, Ge)
def _comparison(node: Any, info: EntityInfo[Any]) -> Judge:
    return _known(info.index(node.field), _OPERATORS[type(node)], node.value)


@_memory.on(Contains, StartsWith, EndsWith)
def _match(node: Any, info: EntityInfo[Any]) -> Judge:
    return _known(info.index(node.field), _OPERATORS[type(node)], node.text)


def _known(position: int, operator: Callable[[Any, Any], bool], other: Any) -> Judge:
    def judge(row: Row) -> Truth:
        value = row[position]
        return None if value is None else operator(value, other)

    return judge


@_memory.on(In)
def _in(node: In, info: EntityInfo[Any]) -> Judge:
    if not node.values:
        return lambda _row: False
    values = frozenset(node.values)
    return _known(info.index(node.field), lambda value, _: value in values, None)


@_memory.on(IsNull)
def _is_null(node: IsNull, info: EntityInfo[Any]) -> Judge:
    position = info.index(node.field)
    return lambda row: row[position] is None


@_memory.on(And)
def _and(node: And, info: EntityInfo[Any]) -> Judge:
    return _junction([_memory.compile(part, info) for part in node.parts], deciding=False)


@_memory.on(Or)
def _or(node: Or, info: EntityInfo[Any]) -> Judge:
    return _junction([_memory.compile(part, info) for part in node.parts], deciding=True)


def _junction(judges: list[Judge], *, deciding: bool) -> Judge:
    """One deciding part decides; otherwise one unknown part makes the whole unknown."""

    def judge(row: Row) -> Truth:
        whole: Truth = not deciding
        for each in judges:
            part = each(row)
            if part is deciding:
                return deciding
            if part is None:
                whole = None
        return whole

    return judge


@_memory.on(Not)
def _not(node: Not, info: EntityInfo[Any]) -> Judge:
    inner = _memory.compile(node.part, info)

    def judge(row: Row) -> Truth:
        part = inner(row)
        return None if part is None else not part

    return judge


def judge(info: EntityInfo[Any], predicate: Predicate | None) -> Callable[[Row], bool]:
    """Return what tells whether a condition is true for a row.

    Raises:
        UnsupportedQuery: A node is not known here.
    """
    if predicate is None:
        return lambda _row: True
    truth = _memory.compile(predicate, info)
    return lambda row: truth(row) is True


def sort(info: EntityInfo[Any], rows: Iterable[Row], order: tuple[Order, ...]) -> list[Row]:
    """Return the rows in order."""
    ordered = list(rows)
    for key in reversed(order):  # stable: the last key first
        position = info.index(key.field)
        nulls = [row for row in ordered if row[position] is None]
        known = [row for row in ordered if row[position] is not None]
        known.sort(key=lambda row, at=position: row[at], reverse=key.descending)  # type: ignore[misc]
        ordered = nulls + known if key.nulls == "first" else known + nulls
    return ordered
