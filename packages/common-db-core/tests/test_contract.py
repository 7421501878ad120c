"""The contract suite has to find what is wrong with a backend."""

from typing import Any, cast

import pytest

from common.db.core import (
    ANY,
    F,
    IsNull,
    MemoryDatabase,
    Query,
    Scope,
    Select,
    UnsupportedQuery,
    entity_info,
)
from common.db.core import _evaluate as evaluate
from common.db.core._memory import _Calls
from common.db.core._tables import Transaction, freeze
from common.db.core.testing import (
    Item,
    RepositoryContract,
    Sample,
    assert_agree,
    queries,
    sample_rows,
)
from common.db.core.testing._differential import random_queries
from common.db.core.testing._scoping import PROBES

TENANT = {"merchant": "m1", "domain": "shop"}
OTHER = {"merchant": "m2", "domain": "shop"}


@pytest.fixture
async def database():
    async with MemoryDatabase() as database:
        yield database


@pytest.fixture
def without_scope(monkeypatch):
    """Break the library: repositories forget whose rows they may see."""
    monkeypatch.setattr("common.db.core._unit.bind", lambda *args, **options: Scope())


# What does not take its row from the scope: the tenant is the row's own there.
_BY_ROW = {"add", "add_many", "upsert", "upsert_many"}


@pytest.mark.parametrize("method", sorted(set(PROBES) - _BY_ROW))
async def test_each_probe_finds_a_forgotten_scope(database, without_scope, method):
    mine = database.repository(Item, tenant=TENANT)
    others = database.repository(Item, tenant=OTHER)
    row = await others.add(Item(merchant="m2", slug="a", rank=1))
    assert await PROBES[method](mine, row)


@pytest.mark.parametrize("method", ["upsert", "upsert_many"])
async def test_each_probe_finds_an_upsert_that_takes_rows_over(database, monkeypatch, method):
    real = _Calls.upsert

    async def careless(self, info, row):
        key = info.key_of(row)
        old = self._transaction.newest(info, key)
        if old is None:
            return await real(self, info, row)
        stored = freeze(info, row)
        await self._transaction.put(info, key, stored)
        return stored

    others = database.repository(Item, tenant=OTHER)
    row = await others.add(Item(merchant="m2", slug="a", rank=1))
    monkeypatch.setattr(_Calls, "upsert", careless)
    stolen = row.model_copy(update={"merchant": "m1"})
    assert await PROBES[method](database.repository(Item, tenant=TENANT), stolen)


async def test_the_comparison_finds_a_wrong_null_logic(database, monkeypatch):
    async with MemoryDatabase() as other:
        one, two = database.repository(Sample), other.repository(Sample)
        for repository in (one, two):
            await repository.add_many(sample_rows())

        class Careless:
            def __init__(self, repository):
                self._repository = repository

            def __getattr__(self, name):
                return getattr(self._repository, name)

            async def find(self, query=None, **options):
                # Two-valued logic: unknown is taken for false, and so its negation for true.
                real = evaluate._junction
                monkeypatch.setattr(evaluate, "_known", _two_valued)
                try:
                    return await self._repository.find(query, **options)
                finally:
                    monkeypatch.undo()
                    assert evaluate._junction is real

        def _two_valued(position, operator, other):
            return lambda row: row[position] is not None and operator(row[position], other)

        assert await assert_agree(one, two, _query(~(F.number == 7)))
        with pytest.raises(AssertionError):
            await assert_agree(one, cast("Any", Careless(two)), _query(~(F.number == 7)))


def _query(where):
    return Query(where)


async def test_a_query_that_is_not_supported_is_not_compared(database):
    class Refusing:
        async def find(self, query=None, **options):
            raise UnsupportedQuery(node="Contains")

    assert (
        await assert_agree(database.repository(Sample), cast("Any", Refusing()), _query(None))
        is False
    )


def test_random_queries_vary():
    drawn = random_queries(50)
    assert len(drawn) == 50
    assert len({query for query, _ in drawn}) > 30


async def test_lost_updates_are_found(database, monkeypatch):
    monkeypatch.setattr(
        _Calls, "_matches", staticmethod(lambda info, row, expected: row is not None)
    )
    items = database.repository(Item, tenant=TENANT)
    with pytest.raises(pytest.fail.Exception):
        await RepositoryContract().test_the_second_of_two_writers_is_told(items)


async def test_half_written_transactions_are_found(database, monkeypatch):
    """Writes that show before the commit must not pass for a unit of work."""
    real = Transaction.put

    async def leaking(self, info, key, row):
        await real(self, info, key, row)
        self._store.table(info).put(info, key, row, self._store.now)

    monkeypatch.setattr(Transaction, "put", leaking)
    samples = database.repository(Sample)
    with pytest.raises(AssertionError):
        await RepositoryContract().test_a_cancelled_unit_of_work_is_whole_or_nothing(
            database, samples
        )


async def test_the_double_returns_nothing_that_it_could_not_judge(database):
    samples = database.repository(Sample)
    await samples.add(Sample(id=1))
    session = database.driver.autocommit()

    class Sounds(IsNull):
        __slots__ = ()

    with pytest.raises(UnsupportedQuery):
        await session.select(entity_info(Sample), Select(Sounds("text")))
    assert await samples.update(1, {}, expected=ANY) == Sample(id=1)
    assert queries(entity_info(Sample)) is not None
