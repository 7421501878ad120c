import pickle
from dataclasses import dataclass
from typing import Any, cast

import pytest

from common.db.core import (
    And,
    Compiler,
    Eq,
    F,
    Field,
    In,
    IsNull,
    MemoryDatabase,
    Not,
    Or,
    Order,
    Query,
    UnknownFieldError,
    UnsupportedQuery,
    check_query,
    entity,
    entity_info,
)
from common.db.core.testing import Item
from common.errors import ValidationError


@entity(table="t", key=("a", "b"))
@dataclass
class Thing:
    a: int
    b: int
    text: str | None = None


INFO = entity_info(Thing)


def test_conditions_are_plain_frozen_values():
    query = Query((F.a == 1) & F.text.in_(["x"]), order_by=(F.text.desc(nulls="first"), F.a))
    assert query == Query(
        And((Eq("a", 1), In("text", ("x",)))), (Order("text", True, "first"), Order("a"))
    )
    assert len({query, Query((F.a == 1) & F.text.in_(["x"]), query.order_by)}) == 1
    assert pickle.loads(pickle.dumps(query)) == query
    with pytest.raises(AttributeError):
        setattr(query, "where", None)  # noqa: B010


def test_junctions_are_flat():
    one, two, three = F.a == 1, F.a == 2, F.a == 3
    assert (one & two & three) == And((one, two, three))
    assert (one | (two | three)) == Or((one, two, three))
    assert (one & (two | three)) == And((one, Or((two, three))))


def test_equal_to_none_is_is_null():
    assert (F.a == None) == IsNull("a") == F.a.is_null()  # noqa: E711
    assert (F.a != None) == Not(IsNull("a")) == F.a.not_null()  # noqa: E711


def test_a_condition_has_no_truth():
    for misuse in (
        lambda: cast("Any", F.a == 1) and F.b == 2,
        lambda: 1 < cast("Any", F.a) < 3,
        lambda: not cast("Any", F.a.in_([1])),
        lambda: bool(F.a.is_null()),
    ):
        with pytest.raises(TypeError, match="neither true nor false"):
            misuse()


@pytest.mark.parametrize("other", [True, None, "a = 1", 1, Query()])
def test_only_conditions_combine(other):
    for misuse in (
        lambda: (F.a == 1) & other,
        lambda: (F.a == 1) | other,
        lambda: Not(other),
        lambda: And((other,)),
        lambda: Query(other) if other is not None else And(()),
    ):
        with pytest.raises(ValidationError):
            misuse()


def test_names_of_any_shape_are_possible_and_dunders_are_not():
    assert (F["in_"] == "x") == Eq("in_", "x")
    assert isinstance(F._private, Field)
    with pytest.raises(AttributeError):
        F.__wrapped__  # noqa: B018
    with pytest.raises(ValidationError):
        F[cast("Any", 1)]


def test_depth_and_size_are_bounded_where_they_are_built():
    deep = F.a == 1
    for _ in range(31):
        deep = ~deep
    with pytest.raises(ValidationError, match="32 deep"):
        Not(deep)
    assert hash(deep)
    with pytest.raises(ValidationError, match="1000 conditions"):
        Or(tuple(F.a == n for n in range(1_000)))
    with pytest.raises(ValidationError, match="10000 values"):
        F.a.in_(range(10_001))
    with pytest.raises(ValidationError, match="10000 values"):
        F.a.in_(iter(int, 1))  # endless
    for several in ("text", b"bytes", 1, None):
        with pytest.raises(ValidationError, match="into a list"):
            F.a.in_(cast("Any", several))
    with pytest.raises(ValidationError, match="at most 8 fields"):
        Query(order_by=[F[f"f{n}"] for n in range(9)])


@pytest.mark.parametrize("paged", [False, True])
async def test_scope_and_cursor_take_nothing_from_a_querys_bounds(paged):
    deep = F.slug != ""
    for _ in range(30):
        deep = ~deep
    wide = Or(tuple(F.rank == n for n in range(999)))
    async with MemoryDatabase() as database:
        items = database.repository(Item, tenant={"merchant": "m1", "domain": "shop"})
        await items.add_many([Item(slug=f"{n}", rank=n) for n in range(3)])
        for where in (deep & (F.rank >= 0), wide):
            query = Query(where, order_by=F.rank)
            first = await items.find(query, limit=1)
            after = first.next if paged else None
            page = await items.find(query, limit=1, after=after)
            assert [item.rank for item in page] == [int(paged)]


def test_a_query_as_a_whole_is_bounded():
    many = F.a.in_(range(6_000)) | F.b.in_(range(6_000))
    with pytest.raises(ValidationError, match="10000 values"):
        check_query(INFO, many, max_bytes=1 << 20)
    large = F.text.in_(["x" * 600, "y" * 600])
    with pytest.raises(ValidationError, match="too large"):
        check_query(INFO, large, max_bytes=1_024)
    check_query(INFO, large, max_bytes=2_048)


def test_the_order_ends_with_the_primary_key():
    def order(*keys):
        return check_query(INFO, Query(order_by=keys), max_bytes=1_024).order

    assert order() == (Order("a"), Order("b"))
    assert order(F.text) == (Order("text"), Order("a"), Order("b"))
    assert order(F.b.desc()) == (Order("b", True), Order("a"))
    with pytest.raises(ValidationError):
        order(Order("a", nulls=cast("Any", "somewhere")))
    with pytest.raises(UnknownFieldError):
        order(F.c)
    for wrong in ("a", "-a", 1, None):
        with pytest.raises(ValidationError):
            order(wrong)
        with pytest.raises(ValidationError):
            Query(order_by=cast("Any", wrong))


def test_checked_values_are_as_stored():
    from enum import StrEnum

    class Text(StrEnum):
        X = "x"

    where = check_query(INFO, F.text == Text.X, max_bytes=1_024).where
    assert isinstance(where, Eq)
    assert type(where.value) is str


@pytest.mark.parametrize("query", ["a = 1", 1, {"a": 1}, [F.a == 1], Order("a"), F.a])
def test_what_is_no_query_is_refused(query):
    with pytest.raises(ValidationError):
        check_query(INFO, query, max_bytes=1_024)


def test_a_compiler_names_what_it_lacks():
    compiler: Compiler[None, str] = Compiler("tiny")

    @compiler.on(Eq)
    def _eq(node, context):
        return node.field

    assert compiler.compile(F.a == 1, None) == "a"
    with pytest.raises(UnsupportedQuery) as caught:
        compiler.compile(F.text.contains("x"), None)
    assert caught.value.details == {"node": "Contains", "backend": "tiny"}
    with pytest.raises(UnsupportedQuery, match="tiny cannot judge And"):
        compiler.compile((F.a == 1) & (F.b == 1), None)
