"""SQL: sorting by code point whatever the collation, indexes used, statements reused."""

import asyncio
import dataclasses
from contextlib import aclosing
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from postgres_entities import Call, connect
from sqlalchemy.orm import Mapped, mapped_column

from common.db.core import (
    ANY,
    EntityInfo,
    F,
    Order,
    Predicate,
    Query,
    Seek,
    Select,
    UnsupportedQuery,
    entity,
    entity_info,
)
from common.db.postgres import Base, PostgresDatabase, new_metadata, orm_session, table_for
from common.db.postgres._compile import Arguments, condition, order_by, where
from common.db.postgres._connect import dump_json
from common.db.postgres._layout import Layout
from common.db.postgres._names import lock_key, quote, shorten
from common.errors import ValidationError


def layout(cls: type[Any] = Call) -> Layout:
    return Layout(entity_info(cls), None)


async def linguistic(database: PostgresDatabase) -> str:
    """Return a collation that sorts as people do, if this server was built with one."""
    found = await database.select(
        sa.text(
            "SELECT collname FROM pg_collation WHERE collprovider = 'c' "
            "AND collname ~ '^(en|de)' LIMIT 1"
        ).columns(sa.column("name", sa.String))
    )
    if not found:
        pytest.skip("this PostgreSQL has no collation but those by code point")
    return str(found[0][0])


async def test_text_sorts_by_code_point_in_a_column_of_another_collation(
    database: PostgresDatabase,
):
    collation = await linguistic(database)

    class Records(Base):
        __abstract__ = True
        metadata = new_metadata()

    class Word(Records):
        __tablename__ = "words"
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str | None] = mapped_column(sa.Text(collation=collation))

    entity_table: Any = Word.__table__
    words = ["a", "B", "b", "A", "ä", "Z", "z", "é", "e", "_", "😀", "\ue000"]
    async with database.session() as session:
        await session.execute(sa.schema.CreateTable(entity_table))
    repository = database.repository(Word)
    await repository.add_many([Word(id=n, text=text) for n, text in enumerate(words)])
    page = await repository.find(Query(order_by=F.text), limit=100)
    expected = sorted(words, key=str.encode)
    assert [each.text for each in page.items] == expected
    for text in words:
        above = await repository.find(Query(F.text > text, order_by=F.text))
        assert [each.text for each in above.items] == expected[expected.index(text) + 1 :]
    seen: list[str | None] = []
    after = None
    while True:
        page = await repository.find(Query(order_by=F.text.desc()), limit=2, after=after)
        seen += [each.text for each in page.items]
        if (after := page.next) is None:
            break
    assert seen == expected[::-1]


async def test_pages_and_prefixes_can_use_an_index(database: PostgresDatabase):
    await database.repository(Call).add_many([Call(n, f"n{n:06}") for n in range(20_000)])
    order = (Order("number"), Order("id"))
    seek = Seek(order, ("n010000", 7), (False, False))
    select = Select(order=order, limit=10, seek=seek)
    arguments = Arguments(layout())
    sql = f"{layout().select}{condition(select, arguments)}{order_by(order, layout())} LIMIT 10"
    assert 'COLLATE "C", "id") > ($1::text, $2::bigint)' in sql
    plan = await explain(database, sql, arguments.values)
    assert "uq_calls_number" in plan
    assert "Seq Scan" not in plan


async def explain(database: PostgresDatabase, sql: str, values: list[Any]) -> str:
    async with database.transaction() as unit:
        await (await orm_session(unit)).execute(sa.text("ANALYZE calls"))
        session: Any = unit.session
        rows = await session.connection.fetch(f"EXPLAIN {sql}", *values)
    return "\n".join(row[0] for row in rows)


def test_nulls_are_placed_only_where_postgres_would_not():
    assert order_by((Order("number", descending=True),), layout()) == (
        ' ORDER BY "number" COLLATE "C" DESC'
    )
    assert order_by((Order("note"), Order("note", descending=True)), layout()) == (
        ' ORDER BY "note" COLLATE "C", "note" COLLATE "C" DESC NULLS LAST'
    )
    assert order_by((Order("note", nulls="first"),), layout()).endswith("NULLS FIRST")


def test_a_seek_over_nulls_or_two_directions_is_spelled_out():
    mixed = (Order("number"), Order("id", descending=True))
    sql = condition(Select(seek=Seek(mixed, ("a", 1), (False, False))), Arguments(layout()))
    assert ") > (" not in sql
    assert " OR " in sql
    down = (Order("number", descending=True), Order("id", descending=True))
    sql = condition(
        Select(F.note.is_null(), seek=Seek(down, ("a", 1), (False, False))), Arguments(layout())
    )
    assert sql.startswith(' WHERE "note" IS NULL AND ("number"')
    assert ") < (" in sql


def test_values_never_become_sql():
    arguments = Arguments(layout())
    hostile = "'; DROP TABLE calls; --"
    sql = where((F.number == hostile) & F.note.in_([hostile]) & F.note.contains(hostile), arguments)
    assert "DROP" not in sql
    assert arguments.values == [hostile, [hostile], hostile]


def test_a_node_that_is_not_known_is_refused_by_name():
    class Near(Predicate):
        pass

    with pytest.raises(UnsupportedQuery, match="Near"):
        where(Near(), Arguments(layout()))


async def test_statements_of_one_shape_share_one_prepared_statement(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add_many([Call(n, f"n{n}") for n in range(50)])
    for n in range(1, 20):
        await calls.get(n)
        await calls.find(F.id.in_(range(n)), limit=n)
        await calls.update(n, {"note": str(n)}, expected=ANY)
    async with database.transaction() as unit:
        session: Any = unit.session
        statements = await session.connection.fetch(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%\"calls\"%'"
        )
    texts = [row[0] for row in statements]
    assert len([text for text in texts if text.startswith('SELECT "')]) <= 3
    assert len([text for text in texts if text.startswith("UPDATE")]) == 1


async def test_a_read_is_one_round_trip_without_a_transaction(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add(Call(1, "a"))
    await calls.get(1)
    seen: list[str] = []
    slot = database._postgres.primary.take()
    assert slot is not None
    slot.connection.add_query_logger(lambda record: seen.append(record.query))
    database._postgres.primary.release(slot)
    await calls.get(1)
    await calls.count()
    await calls.exists()
    await asyncio.sleep(0)  # asyncpg tells loggers a turn later
    assert len(seen) == 3
    assert all(each.startswith("SELECT") for each in seen)


async def test_a_stream_left_early_frees_its_connection(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add_many([Call(n, f"n{n}") for n in range(5_000)])
    for _ in range(3):
        async with aclosing(calls.stream(batch=10)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
    pool = database._postgres.primary
    async with asyncio.timeout(5):
        while pool._in_doubt:
            await asyncio.sleep(0.005)
    assert pool._idle
    assert not any(slot.connection.is_in_transaction() for slot in pool._idle)
    async with database.transaction() as unit:
        inner = unit.repository(Call)
        first, second = inner.stream(batch=7), inner.stream(batch=11)
        pairs = [(await anext(first), await anext(second)) for _ in range(100)]
        assert all(a.id == b.id for a, b in pairs)
        assert await inner.count() == 5_000
        for each in (first, second):
            await each.aclose()  # type: ignore[attr-defined]
    assert database._postgres.pool().in_use == 0


async def test_a_large_upsert_is_split_and_still_whole(database: PostgresDatabase, monkeypatch):
    from common.db.postgres import _statements

    monkeypatch.setattr(_statements, "_CHUNK_ROWS", 100)
    monkeypatch.setattr(_statements, "_CHUNK_BYTES", 1_000)
    calls = database.repository(Call)
    entities = [Call(n, f"n{n}", note="x" * 40) for n in range(333)]
    assert await calls.upsert_many(entities) == 333
    assert await calls.upsert_many(entities) == 333
    assert {call.version async for call in calls.stream()} == {2}


@entity(table="t" * 60, unique=[("x" * 30, "y" * 30)])
@dataclasses.dataclass
class Long:
    """Has names longer than PostgreSQL keeps."""

    id: int
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: int
    yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy: int


async def test_constraints_with_long_names_are_still_recognised(postgres_url: str):
    table = table_for(Long, new_metadata())
    async with connect(postgres_url) as database:
        async with database.session() as session:
            await session.execute(sa.schema.CreateTable(table))
        repository = database.repository(Long)
        await repository.add(Long(1, 1, 1))
        for other, fields in ((Long(1, 2, 2), ("id",)), (Long(2, 1, 1), ("x" * 30, "y" * 30))):
            with pytest.raises(Exception, match="already") as caught:
                await repository.add(other)
            assert caught.value.fields == fields  # type: ignore[attr-defined]


def test_identifiers_are_quoted_and_kept_apart():
    assert quote('a"b') == '"a""b"'
    for wrong in ("", "a\0", "ü" * 32, "\ud800"):
        with pytest.raises(ValidationError):
            quote(wrong)
    assert shorten("a" * 63) == "a" * 63
    first, second = shorten("a" * 64), shorten("a" * 65)
    assert first != second
    assert len(first.encode()) <= 63
    assert len({lock_key(name) for name in ("a", "b", "\ud800")}) == 3
    assert -(2**63) <= lock_key("a") < 2**63


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_in_json_keep_their_value_as_decimals(value: float):
    import json

    text = dump_json([value, f"1e+{value}"])
    assert text is not None
    assert json.loads(text) == [value, f"1e+{value}"]
    assert "e+" not in text.partition(",")[0]


async def test_json_comes_back_as_it_was(database: PostgresDatabase):
    import json

    data = {"a": [1e23, 1.2345678901234567e17, -0.5, 2**63 - 1, "1e+5", 'q"\\', None], "ü": {}}
    calls = database.repository(Call)
    await calls.add(Call(1, "a", data=data))
    await calls.add_many([Call(2, "b", data=data)])
    await calls.upsert_many([Call(3, "c", data=data)])
    for key in (1, 2, 3):
        found = (await calls.get(key)).data
        assert json.dumps(found) == json.dumps(data)


def test_layouts_are_made_of_the_entity_alone():
    info: EntityInfo[Call] = entity_info(Call)
    assert layout().table == '"calls"'
    assert Layout(info, 's"x').table == '"s""x"."calls"'
