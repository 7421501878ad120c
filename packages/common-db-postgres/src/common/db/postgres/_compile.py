"""Turning conditions and orders into SQL: names are quoted, values are parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from common.db.core import (
    And,
    Compiler,
    Contains,
    EndsWith,
    Eq,
    Ge,
    Gt,
    In,
    IsNull,
    Kind,
    Le,
    Lt,
    Ne,
    Not,
    Or,
    Order,
    Predicate,
    Seek,
    Select,
    StartsWith,
)
from common.db.postgres._layout import Layout

_OPERATORS: Final[Mapping[type[Predicate], str]] = {
    Eq: "=",
    Ne: "<>",
    Lt: "<",
    Le: "<=",
    Gt: ">",
    Ge: ">=",
}


class Arguments:
    """Values of one statement, and the columns they are compared with."""

    __slots__ = ("layout", "values")

    def __init__(self, layout: Layout, values: Sequence[Any] = ()) -> None:
        self.layout = layout
        self.values = list(values)

    def add(self, field: str, value: object) -> str:
        """Add a value and return its placeholder."""
        self.values.append(value)
        return f"${len(self.values)}::{self.layout.cast(field)}"


_compiler: Final[Compiler[Arguments, str]] = Compiler("postgresql")


def where(node: Predicate | None, arguments: Arguments) -> str:
    """Return ``WHERE ...`` with a leading space, or nothing."""
    return "" if node is None else f" WHERE {_compiler.compile(node, arguments)}"


def order_by(order: Sequence[Order], layout: Layout) -> str:
    """Return ``ORDER BY ...`` with a leading space, or nothing."""
    if not order:
        return ""
    return " ORDER BY " + ", ".join(_sort_key(each, layout) for each in order)


def condition(select: Select, arguments: Arguments) -> str:
    """Return ``WHERE ...`` of a selection, with the position of its page."""
    seek = select.seek
    if seek is None or not _is_row_value(seek):
        return where(select.predicate, arguments)
    layout = arguments.layout
    first = where(select.where, arguments)
    columns = ", ".join(layout.ordered(each.field) for each in seek.order)
    values = ", ".join(
        arguments.add(each.field, key) for each, key in zip(seek.order, seek.keys, strict=True)
    )
    after = f"({columns}) {'<' if seek.order[0].descending else '>'} ({values})"
    return f"{first} AND {after}" if first else f" WHERE {after}"


def _is_row_value(seek: Seek) -> bool:
    """Tell whether an index can find the position: one direction, no nulls."""
    directions = {each.descending for each in seek.order}
    return len(directions) == 1 and not any(seek.nullable)


def _sort_key(order: Order, layout: Layout) -> str:
    key = layout.ordered(order.field)
    if order.descending:
        key += " DESC"
    # What PostgreSQL does anyway is left out, so that it sees that an index has this order.
    default = "first" if order.descending else "last"
    if layout.info.field(order.field).nullable and order.nulls != default:
        key += f" NULLS {order.nulls.upper()}"
    return key


@_compiler.on(Eq, Ne)
def _equality(node: Any, arguments: Arguments) -> str:
    column = arguments.layout.column(node.field)
    return f"{column} {_OPERATORS[type(node)]} {arguments.add(node.field, node.value)}"


@_compiler.on(Lt, Le, Gt, Ge)
def _comparison(node: Any, arguments: Arguments) -> str:
    column = arguments.layout.ordered(node.field)
    return f"{column} {_OPERATORS[type(node)]} {arguments.add(node.field, node.value)}"


@_compiler.on(In)
def _in(node: In, arguments: Arguments) -> str:
    if not node.values:
        return "FALSE"
    column = arguments.layout.column(node.field)
    return f"{column} = ANY({arguments.add(node.field, list(node.values))}[])"


@_compiler.on(IsNull)
def _is_null(node: IsNull, arguments: Arguments) -> str:
    return f"{arguments.layout.column(node.field)} IS NULL"


@_compiler.on(Contains)
def _contains(node: Contains, arguments: Arguments) -> str:
    return f"strpos({_text(node.field, arguments)}, {arguments.add(node.field, node.text)}) > 0"


@_compiler.on(StartsWith)
def _starts_with(node: StartsWith, arguments: Arguments) -> str:
    return f"starts_with({_text(node.field, arguments)}, {arguments.add(node.field, node.text)})"


@_compiler.on(EndsWith)
def _ends_with(node: EndsWith, arguments: Arguments) -> str:
    column, text = _text(node.field, arguments), arguments.add(node.field, node.text)
    return f"right({column}, length({text})) = {text}"


@_compiler.on(And, Or)
def _junction(node: Any, arguments: Arguments) -> str:
    word = " AND " if type(node) is And else " OR "
    return f"({word.join(_compiler.compile(part, arguments) for part in node.parts)})"


@_compiler.on(Not)
def _not(node: Not, arguments: Arguments) -> str:
    return f"NOT ({_compiler.compile(node.part, arguments)})"


def _text(field: str, arguments: Arguments) -> str:
    assert arguments.layout.info.field(field).kind is Kind.TEXT  # noqa: S101 - checked by core
    return arguments.layout.ordered(field)
