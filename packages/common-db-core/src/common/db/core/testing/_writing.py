"""Contract: writing, versions, conflicts, bulk."""

# ruff: noqa: S101 - tests, which say by their name what they check

import dataclasses
from datetime import timedelta
from uuid import uuid4

import pytest

from common.db.core import (
    ANY,
    Capability,
    F,
    Repository,
    StaleVersionError,
    UniqueViolationError,
    UnknownFieldError,
)
from common.db.core.testing._base import ContractBase, ids, slugs
from common.db.core.testing._entities import Item, Pair, Sample, Status
from common.errors import ConflictError, NotFoundError, ValidationError


class WritingContract(ContractBase):
    """Writing."""

    async def test_add_gives_the_entity_as_stored(self, items: Repository[Item]) -> None:
        added = await items.add(Item(slug="a", version=77))
        assert added == await items.get(added.id)
        assert added.version == 1
        assert added.created_at is not None
        assert added.created_at.utcoffset() == timedelta(0)
        assert added.updated_at is not None
        assert added.deleted_at is None

    async def test_adding_a_taken_key_is_a_conflict(
        self, items: Repository[Item], pairs: Repository[Pair]
    ) -> None:
        first = await items.add(Item(slug="a"))
        with pytest.raises(UniqueViolationError) as caught:
            await items.add(Item(id=first.id, slug="b"))
        assert isinstance(caught.value, ConflictError)
        assert caught.value.fields == ("id",)
        assert caught.value.constraint == "pk_contract_items"
        assert await items.get(first.id) == first
        await pairs.add(Pair("a", 1))
        with pytest.raises(UniqueViolationError) as caught:
            await pairs.add(Pair("a", 1, "again"))
        assert caught.value.fields == ("left", "right")

    async def test_unique_constraints_hold_on_every_way_in(self, items: Repository[Item]) -> None:
        self.needs(Capability.UNIQUE)
        await items.add(Item(slug="a"))
        other = await items.add(Item(slug="b"))
        for write in (
            lambda: items.add(Item(slug="a")),
            lambda: items.add_many([Item(slug="c"), Item(slug="a")]),
            lambda: items.upsert(Item(slug="a")),
            lambda: items.upsert(Item(id=other.id, slug="a")),
            lambda: items.upsert_many([Item(slug="c"), Item(slug="a")]),
            lambda: items.update(other.id, {"slug": "a"}, expected=ANY),
        ):
            with pytest.raises(UniqueViolationError) as caught:
                await write()
            assert caught.value.fields == ("merchant", "domain", "slug")
            assert caught.value.constraint == "uq_contract_items_merchant_domain_slug"
        assert sorted(slugs(await items.find())) == ["a", "b"]
        assert (await items.get(other.id)).version == 1

    async def test_values_of_deleted_rows_are_free_again(self, items: Repository[Item]) -> None:
        self.needs(Capability.UNIQUE)
        first = await items.add(Item(slug="a"))
        await items.delete(first.id)
        second = await items.add(Item(slug="a"))
        assert ids(await items.find()) == [second.id]

    async def test_update_changes_only_what_it_is_given(self, items: Repository[Item]) -> None:
        item = await items.add(Item(slug="a", rank=1, note="n", tags=["x"]))
        updated = await items.update(
            item.id, {"rank": None, "status": Status.CLOSED, "tags": ["y"]}, expected=1
        )
        assert updated == await items.get(item.id)
        assert (updated.rank, updated.status, updated.tags) == (None, Status.CLOSED, ["y"])
        assert (updated.note, updated.slug, updated.version) == ("n", "a", 2)
        assert updated.created_at == item.created_at
        assert updated.updated_at is not None
        assert item.updated_at is not None
        assert updated.updated_at >= item.updated_at

    async def test_the_second_of_two_writers_is_told(self, items: Repository[Item]) -> None:
        item = await items.add(Item(slug="a"))
        await items.update(item.id, {"rank": 1}, expected=item.version)
        for write in (
            lambda: items.update(item.id, {"rank": 2}, expected=item.version),
            lambda: items.update(item.id, {}, expected=item.version),
            lambda: items.upsert(item, expected=item.version),
            lambda: items.delete(item.id, expected=item.version),
        ):
            with pytest.raises(StaleVersionError) as caught:
                await write()
            assert (caught.value.expected, caught.value.actual) == (1, 2)
        stored = await items.get(item.id)
        assert (stored.rank, stored.version) == (1, 2)

    async def test_overwriting_without_a_version_is_written_out(
        self, items: Repository[Item]
    ) -> None:
        item = await items.add(Item(slug="a"))
        await items.update(item.id, {"rank": 1}, expected=ANY)
        assert (await items.update(item.id, {"rank": 2}, expected=ANY)).version == 3
        with pytest.raises(TypeError):
            await items.update(item.id, {"rank": 3})  # type: ignore[call-arg]

    async def test_an_empty_change_only_checks_the_version(self, items: Repository[Item]) -> None:
        item = await items.add(Item(slug="a"))
        assert await items.update(item.id, {}, expected=1) == item
        assert await items.update(item.id, {}, expected=ANY) == item

    async def test_changing_or_deleting_what_is_missing(self, items: Repository[Item]) -> None:
        for changes in ({"rank": 1}, {}):
            for expected in (ANY, 1):
                with pytest.raises(NotFoundError):
                    await items.update(uuid4(), changes, expected=expected)
        assert await items.delete(uuid4()) is False
        assert await items.delete(uuid4(), expected=1) is False
        with pytest.raises(StaleVersionError) as caught:
            await items.upsert(Item(slug="a"), expected=1)
        assert caught.value.actual is None
        assert await items.count() == 0

    async def test_some_fields_are_not_the_callers_to_change(self, items: Repository[Item]) -> None:
        item = await items.add(Item(slug="a"))
        for name, value in {
            "id": uuid4(),
            "merchant": "m2",
            "domain": "d2",
            "version": 9,
            "created_at": None,
            "updated_at": None,
            "deleted_at": None,
        }.items():
            with pytest.raises(ValidationError) as caught:
                await items.update(item.id, {"rank": 5, name: value}, expected=ANY)
            assert caught.value.field == name
        with pytest.raises(UnknownFieldError) as unknown:
            await items.update(item.id, {"rnak": 5}, expected=ANY)
        assert unknown.value.suggestion == "rank"
        assert await items.get(item.id) == item

    async def test_upsert_inserts_then_overwrites(self, items: Repository[Item]) -> None:
        item = Item(slug="a", rank=1, note="n")
        first = await items.upsert(item)
        assert (first.version, first.rank) == (1, 1)
        second = await items.upsert(item.model_copy(update={"rank": None, "note": "m"}))
        assert (second.version, second.rank, second.note) == (2, None, "m")
        assert second.created_at == first.created_at
        third = await items.upsert(second.model_copy(update={"rank": 3}), expected=2)
        assert (third.version, third.rank) == (3, 3)
        assert await items.find_one(F.slug == "a") == third

    async def test_bulk_writes_store_all(
        self, items: Repository[Item], samples: Repository[Sample]
    ) -> None:
        entities = [Item(slug=f"s{n}", rank=n, tags=[str(n)]) for n in range(300)]
        assert await items.add_many(entity for entity in entities) == 300
        assert await items.count() == 300
        stored = await items.get(entities[7].id)
        assert (stored.rank, stored.tags, stored.version) == (7, ["7"], 1)
        assert stored.created_at is not None
        for entity in entities:
            entity.rank = 1_000
        more = [*entities, Item(slug="new")]
        assert await items.upsert_many(more) == 301
        assert await items.count(F.rank == 1_000) == 300
        assert (await items.get(entities[7].id)).version == 2
        assert await items.add_many([]) == await items.upsert_many([]) == 0
        assert await samples.add_many([Sample(id=n) for n in range(3)]) == 3

    async def test_bulk_writes_store_all_or_nothing(
        self, items: Repository[Item], samples: Repository[Sample]
    ) -> None:
        await samples.add(Sample(id=50, text="old"))
        with pytest.raises(UniqueViolationError):
            await samples.add_many([Sample(id=n) for n in range(100)])
        assert ids(await samples.find()) == [50]
        assert (await samples.get(50)).text == "old"
        gone = await items.add(Item(slug="gone"))
        kept = await items.add(Item(slug="kept", rank=1))
        await items.delete(gone.id)
        with pytest.raises(UniqueViolationError):
            await items.upsert_many(
                [kept.model_copy(update={"rank": 2}), Item(id=gone.id, slug="x"), Item(slug="y")]
            )
        assert await items.get(kept.id) == kept
        assert await items.count() == 1

    async def test_the_same_key_twice_in_one_bulk_call_is_refused(
        self, samples: Repository[Sample]
    ) -> None:
        twice = [Sample(id=1, text="a"), Sample(id=2), Sample(id=1, text="b")]
        with pytest.raises(ValidationError):
            await samples.upsert_many(twice)
        with pytest.raises(UniqueViolationError):
            await samples.add_many(twice)
        assert await samples.count() == 0

    async def test_deleting_without_a_mark_removes(self, samples: Repository[Sample]) -> None:
        await samples.add(Sample(id=1, text="a"))
        assert await samples.delete(1) is True
        assert await samples.delete(1) is False
        again = await samples.add(dataclasses.replace(Sample(id=1, text="b")))
        assert again.text == "b"
