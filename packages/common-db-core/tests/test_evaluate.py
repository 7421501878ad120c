"""The in-memory backend's logic, compared with that of another SQL engine."""

import sqlite3
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.db.core import (
    And,
    Compiler,
    Contains,
    EndsWith,
    Eq,
    F,
    Ge,
    Gt,
    In,
    IsNull,
    Le,
    Lt,
    Ne,
    Not,
    Or,
    StartsWith,
    UnsupportedQuery,
    entity,
    entity_info,
)
from common.db.core._evaluate import judge, sort
from common.db.core.testing import conditions, orders, sample_rows


@entity(table="rows")
@dataclass
class Row:
    id: int
    number: int | None
    ratio: float | None
    text: str | None
    data: bytes | None


INFO = entity_info(Row)
ROWS = [
    (sample.id, sample.number, sample.ratio, sample.text, sample.data)
    for sample in sample_rows(120)
]

sql: Compiler[list[Any], str] = Compiler("sqlite")


@sql.on(Eq, Ne, Lt, Le, Gt, Ge)
def _compare(node, parameters):
    parameters.append(node.value)
    sign = {Eq: "=", Ne: "<>", Lt: "<", Le: "<=", Gt: ">", Ge: ">="}[type(node)]
    return f'"{node.field}" {sign} ?'


@sql.on(In)
def _in(node, parameters):
    parameters.extend(node.values)
    return f'"{node.field}" IN ({", ".join("?" * len(node.values))})'


@sql.on(IsNull)
def _is_null(node, _parameters):
    return f'"{node.field}" IS NULL'


@sql.on(Contains, StartsWith, EndsWith)
def _match(node, parameters):
    parameters.extend([node.text] * 3)
    at = {
        Contains: "instr({0}, ?) > 0 AND ? = ?",
        StartsWith: "substr({0}, 1, length(?)) = ? AND ? IS NOT NULL",
        EndsWith: "(length(?) = 0 OR substr({0}, -length(?)) = ?)",
    }[type(node)].format(f'"{node.field}"')
    # Each of them is null where the field is null, except for the empty ending.
    return f'CASE WHEN "{node.field}" IS NULL THEN NULL ELSE ({at}) END'


@sql.on(And, Or)
def _junction(node, parameters):
    sign = " AND " if isinstance(node, And) else " OR "
    return "(" + sign.join(sql.compile(part, parameters) for part in node.parts) + ")"


@sql.on(Not)
def _not(node, parameters):
    return f"(NOT {sql.compile(node.part, parameters)})"


@pytest.fixture(scope="module")
def sqlite():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE rows (id, number, ratio, text, data)")
    connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", ROWS)
    yield connection
    connection.close()


@given(conditions(INFO, max_leaves=12), orders(INFO))
def test_conditions_and_orders_agree_with_sqlite(sqlite, where, order):
    parameters: list[Any] = []
    condition = sql.compile(where, parameters)
    keys = [
        f'"{key.field}" {"DESC" if key.descending else "ASC"} NULLS {key.nulls.upper()}'
        for key in order
    ]
    query = f"SELECT id FROM rows WHERE {condition} ORDER BY {', '.join([*keys, 'id'])}"
    wanted = [row[0] for row in sqlite.execute(query, parameters)]
    wants = judge(INFO, where)
    found = sort(INFO, [row for row in ROWS if wants(row)], (*order, F.id.asc()))
    assert [row[0] for row in found] == wanted


@given(conditions(INFO))
def test_a_condition_and_its_negation_leave_out_the_unknown(where):
    true, false = judge(INFO, where), judge(INFO, Not(where))
    twice = judge(INFO, Not(Not(where)))
    for row in ROWS:
        assert not (true(row) and false(row))
        assert twice(row) == true(row)


@given(conditions(INFO), conditions(INFO))
def test_de_morgans_laws_hold(one, other):
    left, right = judge(INFO, ~(one & other)), judge(INFO, ~one | ~other)
    assert [left(row) for row in ROWS] == [right(row) for row in ROWS]


def test_a_node_that_is_not_known_is_named():
    class Sounds(IsNull):
        __slots__ = ()

    with pytest.raises(UnsupportedQuery) as caught:
        judge(INFO, F.id.is_null() | Sounds("text"))
    assert (caught.value.node, caught.value.backend) == ("Sounds", "memory")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4)))
def test_text_sorts_by_its_utf_8_bytes(texts):
    assert sorted(texts) == sorted(texts, key=str.encode)
