"""Contract: reading, operators, nulls, orders."""

# ruff: noqa: S101 - tests, which say by their name what they check

from typing import Any
from uuid import uuid4

import pytest

from common.db.core import (
    Capability,
    Condition,
    DatabaseManager,
    F,
    Query,
    Repository,
    UnsupportedOperation,
)
from common.db.core.testing._base import ContractBase, collect, ids, slugs
from common.db.core.testing._entities import Item, Pair, Sample, Status
from common.db.core.testing._strategies import sample_rows
from common.errors import NotFoundError

# Six samples: number is null, 1, 2, 2, 3, null; text is null, "", "a%", "aXb", "A", "a%b".
_NUMBERS = (None, 1, 2, 2, 3, None)
_TEXTS = (None, "", "a%", "aXb", "A", "a%b")

_CASES: list[tuple[Condition, list[int]]] = [
    (None, [0, 1, 2, 3, 4, 5]),
    (F.number == 2, [2, 3]),
    (F.number != 2, [1, 4]),
    (~(F.number == 2), [1, 4]),
    (F.number < 2, [1]),
    (F.number <= 2, [1, 2, 3]),
    (F.number > 2, [4]),
    (F.number >= 2, [2, 3, 4]),
    (F.number.between(2, 3), [2, 3, 4]),
    (F.number.between(3, 2), []),
    (F.number == None, [0, 5]),  # noqa: E711
    (F.number != None, [1, 2, 3, 4]),  # noqa: E711
    (F.number.is_null(), [0, 5]),
    (F.number.not_null(), [1, 2, 3, 4]),
    (F.number.in_([1, 3]), [1, 4]),
    (F.number.not_in([1, 3]), [2, 3]),
    (F.number.in_([]), []),
    (F.number.not_in([]), [0, 1, 2, 3, 4, 5]),
    ((F.number == 2) & (F.text == "a%"), [2]),
    ((F.number == 2) | F.text.is_null(), [0, 2, 3]),
    ((F.number == 2) | (F.text == ""), [1, 2, 3]),
    (~((F.number == 2) & (F.text == "a%")), [1, 3, 4, 5]),
    (~((F.number == 2) | (F.text == "")), [4]),
    (~(~(F.number == 2)), [2, 3]),
    (F.number.is_null() & F.text.is_null(), [0]),
]
_TEXT_CASES: list[tuple[Condition, list[int]]] = [
    (F.text.contains("a"), [2, 3, 5]),
    (F.text.contains(""), [1, 2, 3, 4, 5]),
    (F.text.contains("%"), [2, 5]),
    (F.text.contains("_"), []),
    (F.text.contains("\\"), []),
    (F.text.starts_with("a%"), [2, 5]),
    (F.text.ends_with("b"), [3, 5]),
    (F.text.ends_with("%"), [2]),
    (~F.text.starts_with("a"), [1, 4]),
]


async def _six(samples: Repository[Sample]) -> None:
    await samples.add_many(
        [Sample(id=number, number=_NUMBERS[number], text=_TEXTS[number]) for number in range(6)]
    )


class ReadingContract(ContractBase):
    """Reading."""

    def test_capabilities_are_declared_as_they_are(self, database: DatabaseManager) -> None:
        assert database.capabilities == self.capabilities

    async def test_missing_capabilities_are_refused_by_name(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        if Capability.TRANSACTIONS not in self.capabilities:
            with pytest.raises(UnsupportedOperation):
                async with database.transaction():
                    pass
        if Capability.OFFSET not in self.capabilities:
            with pytest.raises(UnsupportedOperation):
                await samples.list({}, offset=1)

    @pytest.mark.parametrize(("query", "found"), _CASES, ids=lambda value: str(value)[:60])
    async def test_operators_follow_three_valued_logic(
        self, samples: Repository[Sample], query: Condition, found: list[int]
    ) -> None:
        await _six(samples)
        assert ids(await samples.find(query)) == found
        assert await samples.count(query) == len(found)
        assert await samples.exists(query) is bool(found)
        assert ids(await collect(samples.stream(query, batch=2))) == found
        first = await samples.find_one(query)
        assert (None if first is None else first.id) == (found[0] if found else None)

    @pytest.mark.parametrize(("query", "found"), _TEXT_CASES, ids=lambda value: str(value)[:60])
    async def test_text_matches_are_literal_and_mind_the_case(
        self, samples: Repository[Sample], query: Condition, found: list[int]
    ) -> None:
        self.needs(Capability.TEXT_MATCH)
        await _six(samples)
        assert ids(await samples.find(query)) == found

    @pytest.mark.parametrize(
        ("order", "found"),
        [
            (F.number.asc(nulls="last"), [1, 2, 3, 4, 0, 5]),
            (F.number.asc(nulls="first"), [0, 5, 1, 2, 3, 4]),
            (F.number.desc(nulls="last"), [4, 2, 3, 1, 0, 5]),
            (F.number.desc(nulls="first"), [0, 5, 4, 2, 3, 1]),
            ((F.number.desc(), F.id.desc()), [4, 3, 2, 1, 5, 0]),
            (F.text, [1, 4, 2, 5, 3, 0]),
        ],
        ids=str,
    )
    async def test_orders_say_where_nulls_go(
        self, samples: Repository[Sample], order: Any, found: list[int]
    ) -> None:
        self.needs(Capability.NULL_ORDER, Capability.MIXED_ORDER)
        await _six(samples)
        assert ids(await samples.find(Query(order_by=order))) == found

    async def test_every_kind_comes_back_as_it_was_stored(
        self, samples: Repository[Sample]
    ) -> None:
        stored = sample_rows(40)
        for sample in stored:
            assert await samples.add(sample) == sample
            assert await samples.get(sample.id) == sample
        assert list(await samples.find(limit=100)) == stored

    async def test_a_missing_entity_is_not_found(
        self, items: Repository[Item], samples: Repository[Sample], pairs: Repository[Pair]
    ) -> None:
        for repository, key in ((items, uuid4()), (samples, 404), (pairs, ("a", 1))):
            with pytest.raises(NotFoundError):
                await repository.get(key)
        assert await samples.find_one(F.id == 404) is None
        assert not await samples.exists(F.id == 404)
        assert await samples.count() == 0
        assert list(await samples.find()) == []
        assert await collect(samples.stream()) == []

    async def test_the_simple_form_filters_by_equality(self, items: Repository[Item]) -> None:
        for number, slug in enumerate("abcd"):
            await items.add(Item(slug=slug, rank=number % 2 or None))
        assert sorted(slugs(await items.list({"slug": ["a", "c"]}))) == ["a", "c"]
        assert sorted(slugs(await items.list({"rank": None}))) == ["a", "c"]
        assert slugs(await items.list({"rank": 1, "slug": "b"})) == ["b"]
        assert len(await items.list(limit=3)) == 3
        assert await items.list({"status": Status.CLOSED}) == []
        if Capability.OFFSET in self.capabilities:
            assert len(await items.list({}, offset=3)) == 1

    async def test_enumerations_and_json_are_stored_as_plain_values(
        self, items: Repository[Item]
    ) -> None:
        item = await items.add(Item(slug="a", status=Status.CLOSED, tags=["x", "ä"]))
        assert (item.status, item.tags) == (Status.CLOSED, ["x", "ä"])
        assert slugs(await items.find(F.status == "closed")) == ["a"]
        assert slugs(await items.find(F.status == Status.CLOSED)) == ["a"]

    async def test_what_was_read_is_no_part_of_what_is_stored(
        self, items: Repository[Item]
    ) -> None:
        given = Item(slug="a", tags=["x"])
        item = await items.add(given)
        given.tags.append("y")
        item.tags.append("z")
        (await items.get(item.id)).tags.append("w")
        assert (await items.get(item.id)).tags == ["x"]

    async def test_a_key_of_two_fields_is_a_tuple(self, pairs: Repository[Pair]) -> None:
        await pairs.add_many([Pair("a", 2), Pair("a", 1), Pair("b", 1)])
        assert await pairs.get(("a", 2)) == Pair("a", 2)
        assert [(p.left, p.right) for p in await pairs.find()] == [("a", 1), ("a", 2), ("b", 1)]
        if Capability.MIXED_ORDER in self.capabilities:
            page = await pairs.find(Query(order_by=F.right.desc()), limit=1)
            rest = await pairs.find(Query(order_by=F.right.desc()), after=page.next)
            assert [(p.left, p.right) for p in rest] == [("a", 1), ("b", 1)]
        assert await pairs.delete(("a", 2))
        assert await pairs.count() == 2
