"""Hypothesis strategies: random values, conditions and queries over an entity."""

# ruff: noqa: RUF001 - characters that look like others are what sorting has to tell apart

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st

from common.db.core import (
    And,
    Contains,
    EndsWith,
    EntityInfo,
    Eq,
    FieldInfo,
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
    Query,
    StartsWith,
)
from common.db.core.testing._entities import Sample, Status

POOLS: Final[dict[Kind, tuple[Any, ...]]] = {
    Kind.BOOL: (False, True),
    Kind.INT: (-(2**63), -1, 0, 1, 7, 2**53 + 1, 2**63 - 1),
    Kind.FLOAT: (-1.7e308, -0.5, -0.0, 0.0, 5e-324, 0.1, 0.5, 1e15, 1.7e308),
    Kind.DECIMAL: tuple(
        map(Decimal, ("-100000000000000000000", "-0.1", "0", "0.00", "0.1", "0.10", "1", "1E+3"))
    ),
    Kind.TEXT: (
        *("", " ", "a", "A", "B", "b", "aa", "ab", "a%b", "a_b", "%", "_", "\\", "a\\b", "'", '"'),
        *("ä", "a\u0308", "ß", "ss", "Z", "é", "I", "ı", "\ufffd", "😀", "\u200b", "-", "10", "9"),
    ),
    Kind.BYTES: (b"", b"\0", b"a", b"a\0", b"\x7f", b"\x80", b"\xff"),
    Kind.UUID: tuple(UUID(int=n) for n in (0, 1, 2**63, 2**64, 2**127, 2**128 - 1)),
    Kind.DATETIME: (
        datetime(2, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
        datetime(2026, 3, 29, 3, 0, tzinfo=timezone(timedelta(hours=2))),  # the same instant
        datetime(2026, 3, 29, 1, 0, 0, 1, tzinfo=UTC),
        datetime(9998, 12, 31, tzinfo=UTC),
    ),
    Kind.DATE: (date(2, 1, 1), date(1970, 1, 1), date(2026, 3, 29), date(9998, 12, 31)),
    Kind.JSON: ({}, {"a": [1, None, {"b": "ä"}]}, {"a": 0.5}),
}
"""Values worth comparing, by kind: bounds, equals that look different, wildcards, orders."""


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a field, without null."""
    if field.enum is not None:
        return st.sampled_from(list(field.enum))
    return st.sampled_from(POOLS[field.kind])


def conditions(info: EntityInfo[Any], *, max_leaves: int = 8) -> st.SearchStrategy[Predicate]:
    """Return a strategy for conditions over an entity's fields."""
    leaf = st.sampled_from(info.fields).flatmap(_leaf)
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts))),
        ),
        max_leaves=max_leaves,
    )


def _leaf(field: FieldInfo) -> st.SearchStrategy[Predicate]:
    choices: list[st.SearchStrategy[Predicate]] = [st.just(IsNull(field.name))]
    if field.kind is not Kind.JSON:
        compared = st.sampled_from((Eq, Ne, Lt, Le, Gt, Ge))
        choices.append(st.builds(lambda node, v: node(field.name, v), compared, values(field)))
        several = st.lists(values(field), max_size=4)
        choices.append(several.map(lambda found: In(field.name, tuple(found))))
    if field.kind is Kind.TEXT and field.enum is None:
        matched = st.sampled_from((Contains, StartsWith, EndsWith))
        choices.append(st.builds(lambda node, v: node(field.name, v), matched, values(field)))
    return st.one_of(choices)


def orders(info: EntityInfo[Any]) -> st.SearchStrategy[tuple[Order, ...]]:
    """Return a strategy for sort orders: any fields, directions and places of nulls."""
    sortable = [field.name for field in info.fields if field.kind is not Kind.JSON]
    order = st.builds(
        Order,
        field=st.sampled_from(sortable),
        descending=st.booleans(),
        nulls=st.sampled_from(("first", "last")),
    )
    return st.lists(order, max_size=3, unique_by=lambda each: each.field).map(tuple)


def queries(info: EntityInfo[Any]) -> st.SearchStrategy[Query]:
    """Return a strategy for queries over an entity."""
    where = st.none() | conditions(info)
    return st.builds(Query, where=where, order_by=orders(info))


def sample_rows(count: int = 60) -> list[Sample]:
    """Return samples that have every value of `POOLS`, in many combinations, and many nulls."""
    made: list[Sample] = []
    for number in range(count):

        def pick(kind: Kind, stride: int, number: int = number) -> Any:
            pool = (None, *POOLS[kind])
            return pool[(number * stride + number // len(pool)) % len(pool)]

        made.append(
            Sample(
                id=number,
                flag=pick(Kind.BOOL, 1),
                number=pick(Kind.INT, 3),
                ratio=pick(Kind.FLOAT, 7),
                amount=pick(Kind.DECIMAL, 5),
                text=pick(Kind.TEXT, 1),
                data=pick(Kind.BYTES, 3),
                ref=pick(Kind.UUID, 2),
                at=pick(Kind.DATETIME, 3),
                day=pick(Kind.DATE, 2),
                status=(None, Status.OPEN, Status.CLOSED)[number % 3],
                meta=pick(Kind.JSON, 1),
            )
        )
    return made
