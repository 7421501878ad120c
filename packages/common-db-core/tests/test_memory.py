import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest

from common.db.core import (
    ANY,
    DatabaseConfig,
    EntityDefinitionError,
    F,
    Isolation,
    MemoryDatabase,
    Query,
    StaleVersionError,
    UniqueViolationError,
    entity,
    entity_info,
)
from common.db.core.testing import Item, RepositoryContract, Sample
from common.errors import ValidationError

TENANT = {"merchant": "m1", "domain": "shop"}


class TestMemory(RepositoryContract):
    examples: ClassVar[int] = 300

    @pytest.fixture
    async def database(self):
        async with MemoryDatabase(DatabaseConfig(pool_size=5, max_overflow=2)) as database:
            yield database


async def test_bulk_calls_are_bounded_before_anything_is_stored():
    async with MemoryDatabase(DatabaseConfig(max_bulk=3)) as database:
        samples = database.repository(Sample)
        for write in (samples.add_many, samples.upsert_many):
            with pytest.raises(ValidationError) as caught:
                await write(Sample(id=n) for n in itertools.count())
            assert caught.value.field == "entities"
            for wrong in (None, 1):
                with pytest.raises(ValidationError):
                    await write(cast("Any", wrong))
        assert await samples.count() == 0
        assert await samples.add_many(Sample(id=n) for n in range(3)) == 3


async def test_nothing_is_kept_of_what_is_over():
    async with MemoryDatabase() as database:
        samples = database.repository(Sample)
        for number in range(50):
            await samples.upsert(Sample(id=1, number=number))
            async with database.transaction(isolation=Isolation.SERIALIZABLE) as unit:
                await unit.repository(Sample).update(1, {"text": "a"}, expected=ANY)
        await samples.delete(1)
        store = cast("Any", database.driver)._store
        assert (store.active, store._log, store._stale) == (set(), [], [])
        assert store.table(entity_info(Sample)).cells == {}
        assert (store.locks._owners, store.locks._held, store.locks._waiting) == ({}, {}, {})


async def test_an_old_snapshot_sees_old_rows_until_it_ends():
    async with MemoryDatabase() as database:
        samples = database.repository(Sample)
        await samples.add(Sample(id=1, number=0))
        async with database.transaction(isolation=Isolation.REPEATABLE_READ) as unit:
            old = unit.repository(Sample)
            assert (await old.get(1)).number == 0
            for number in range(1, 5):
                await samples.update(1, {"number": number}, expected=ANY)
            await samples.delete(1)
            assert (await old.get(1)).number == 0
        assert await samples.count() == 0
        assert cast("Any", database.driver)._store.table(entity_info(Sample)).cells == {}


async def test_etags_are_made_by_the_database():
    @entity(table="tagged", version="etag")
    @dataclass
    class Tagged:
        id: int
        text: str = ""
        etag: str | None = None

    async with MemoryDatabase() as database:
        tagged = database.repository(Tagged)
        first = await tagged.add(Tagged(1))
        assert first.etag is not None
        second = await tagged.update(1, {"text": "a"}, expected=first.etag)
        assert second.etag != first.etag
        with pytest.raises(StaleVersionError) as caught:
            await tagged.update(1, {"text": "b"}, expected=first.etag)
        assert caught.value.actual == second.etag
        with pytest.raises(ValidationError):
            await tagged.update(1, {"text": "b"}, expected=1)


async def test_two_classes_may_share_a_table_only_with_the_same_fields():
    @entity(table="contract_samples")
    @dataclass
    class Other:
        id: int

    async with MemoryDatabase() as database:
        await database.repository(Sample).add(Sample(id=1))
        with pytest.raises(EntityDefinitionError, match="contract_samples"):
            await database.repository(Other).count()


async def test_swapping_unique_values_needs_a_free_one_in_between():
    async with MemoryDatabase() as database:
        async with database.transaction() as unit:
            items = unit.repository(Item, tenant=TENANT)
            a, b = await items.add(Item(slug="a")), await items.add(Item(slug="b"))
            await items.update(a.id, {"slug": "c"}, expected=ANY)
            await items.update(b.id, {"slug": "a"}, expected=ANY)
            await items.update(a.id, {"slug": "b"}, expected=ANY)
        found = await database.repository(Item, tenant=TENANT).find(Query(order_by=F.slug))
        assert [item.id for item in found] == [b.id, a.id]
        with pytest.raises(UniqueViolationError):
            async with database.transaction() as unit:
                await unit.repository(Item, tenant=TENANT).update(a.id, {"slug": "a"}, expected=ANY)
