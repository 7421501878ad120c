"""Contract: pages, cursors, streams."""

# ruff: noqa: FBT001, S101 - tests, which say by their name what they check

import base64
from typing import Any

import pytest

from common.db.core import (
    Capability,
    DatabaseManager,
    F,
    InvalidCursorError,
    Query,
    Repository,
)
from common.db.core.testing._base import TENANT, ContractBase, collect, ids, slugs
from common.db.core.testing._entities import Item, Sample
from common.errors import ValidationError


async def walk(repository: Repository[Any], query: Query, limit: int) -> list[Any]:
    """Return all entities, page by page forwards, having checked the way back."""
    found: list[Any] = []
    after = None
    while True:
        page = await repository.find(query, limit=limit, after=after)
        assert len(page) <= limit
        found += page.items
        if page.next is None:
            break
        after = page.next
    back = list(page.items)
    while page.previous is not None:
        page = await repository.find(query, limit=limit, before=page.previous)
        back = [*page.items, *back]
    assert back == found, "walking back gives other entities than walking on"
    return found


class PagingContract(ContractBase):
    """Pages."""

    @pytest.mark.parametrize("nulls", ["first", "last"])
    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    async def test_pages_join_without_gap_or_repetition(
        self,
        samples: Repository[Sample],
        limit: int,
        descending: bool,
        nulls: Any,
    ) -> None:
        self.needs(Capability.NULL_ORDER, Capability.MIXED_ORDER)
        await samples.add_many([Sample(id=n, number=(None, 1, 2)[n % 3]) for n in range(7)])
        key = F.number.desc(nulls=nulls) if descending else F.number.asc(nulls=nulls)
        query = Query(F.id >= 0, order_by=(key, F.id.desc()))
        found = await walk(samples, query, limit)
        assert ids(found) == ids(await samples.find(query))
        assert sorted(ids(found)) == list(range(7))

    async def test_cursors_stand_still_while_rows_come_and_go(
        self, samples: Repository[Sample]
    ) -> None:
        await samples.add_many([Sample(id=n * 10) for n in range(6)])
        page = await samples.find(limit=3)
        assert ids(page) == [0, 10, 20]
        await samples.add_many([Sample(id=5), Sample(id=15), Sample(id=35)])
        await samples.delete(20)  # the row at the cursor itself
        await samples.delete(40)
        rest = await samples.find(limit=10, after=page.next)
        assert ids(rest) == [30, 35, 50]

    async def test_the_ends_have_no_cursors(self, samples: Repository[Sample]) -> None:
        await samples.add_many([Sample(id=n) for n in range(4)])
        first = await samples.find(limit=2)
        assert first.previous is None
        last = await samples.find(limit=2, after=first.next)
        assert last.next is None
        back = await samples.find(limit=2, before=last.previous)
        assert (ids(back), back.previous) == ([0, 1], None)
        whole = await samples.find(limit=4)
        assert (whole.next, whole.previous) == (None, None)

    async def test_the_total_is_counted_only_on_request(self, samples: Repository[Sample]) -> None:
        await samples.add_many([Sample(id=n) for n in range(5)])
        assert (await samples.find(limit=2)).total is None
        page = await samples.find(F.id > 0, limit=2, total=True)
        assert page.total == 4
        assert (await samples.find(F.id > 0, limit=2, after=page.next, total=True)).total == 4

    async def test_pages_have_numbers(self, samples: Repository[Sample]) -> None:
        self.needs(Capability.OFFSET)
        await samples.add_many([Sample(id=n) for n in range(5)])
        pages = [await samples.find_page(page=n, limit=2, total=True) for n in (1, 2, 3, 4)]
        assert [ids(page) for page in pages] == [[0, 1], [2, 3], [4], []]
        assert [page.has_next for page in pages] == [True, True, False, False]
        assert {page.total for page in pages} == {5}

    async def test_a_changed_cursor_is_refused(self, samples: Repository[Sample]) -> None:
        await samples.add_many([Sample(id=n) for n in range(3)])
        cursor = (await samples.find(limit=1)).next
        assert cursor is not None
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        flipped = [
            base64.urlsafe_b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            for at in range(len(raw))
        ]
        for forged in (
            *(each.rstrip(b"=").decode() for each in flipped),
            *("", "x", "=", cursor + "=", cursor + "A", cursor[:-1], cursor * 100, "ä", "\0"),
            *(" " + cursor, cursor + "\n", 7, b"x", {}),
        ):
            with pytest.raises(InvalidCursorError) as caught:
                await samples.find(limit=1, after=forged)  # type: ignore[arg-type]
            assert caught.value.field == "after"
            with pytest.raises(InvalidCursorError):
                await samples.find(limit=1, before=forged)  # type: ignore[arg-type]

    async def test_a_cursor_of_another_query_is_refused(
        self, database: DatabaseManager, items: Repository[Item], others: Repository[Item]
    ) -> None:
        for slug in "abc":
            await items.add(Item(slug=slug))
        query = Query(F.slug != "x", order_by=F.slug)
        cursor = (await items.find(query, limit=1)).next
        assert slugs(await items.find(query, after=cursor)) == ["b", "c"]
        for repository, foreign in (
            (items, Query(F.slug != "y", order_by=F.slug)),
            (items, Query(F.slug == "x", order_by=F.slug)),
            (items, Query(F.note != "x", order_by=F.slug)),
            (items, Query(~(F.slug != "x"), order_by=F.slug)),
            (items, Query(F.slug != "x", order_by=F.slug.desc())),
            (items, Query(F.slug != "x", order_by=F.slug.asc(nulls="first"))),
            (items, Query(F.slug != "x", order_by=F.note)),
            (items, Query(F.slug != "x")),
            (others, query),
            (database.repository(Sample), Query()),
        ):
            with pytest.raises(InvalidCursorError) as caught:
                await repository.find(foreign, after=cursor)
            assert caught.value.reason == "query"

    async def test_both_cursors_at_once_are_refused(self, samples: Repository[Sample]) -> None:
        await samples.add_many([Sample(id=n) for n in range(3)])
        cursor = (await samples.find(limit=1)).next
        with pytest.raises(ValidationError):
            await samples.find(after=cursor, before=cursor)

    async def test_a_stream_gives_everything_in_order(self, samples: Repository[Sample]) -> None:
        await samples.add_many([Sample(id=n) for n in range(25)])
        for batch in (1, 7, 25, 1_000):
            assert ids(await collect(samples.stream(batch=batch))) == list(range(25))

    async def test_a_stream_can_be_left_early(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        await samples.add_many([Sample(id=n) for n in range(25)])
        for _ in range(100):  # more often than the pool has connections
            stream = samples.stream(batch=2)
            async for sample in stream:
                if sample.id == 3:
                    break
            await stream.aclose()
        assert await samples.count() == 25
        pool = (await database.health()).pool
        assert pool is None or pool.in_use == 0

    async def test_a_stream_within_a_transaction_shares_it(self, database: DatabaseManager) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            items = unit.repository(Item, tenant=TENANT)
            for slug in "abcd":
                await items.add(Item(slug=slug))
            seen = []
            async for item in items.stream(Query(order_by=F.slug), batch=1):
                seen.append(item.slug)
                await items.update(item.id, {"rank": 1}, expected=item.version)
            assert seen == ["a", "b", "c", "d"]
            assert await items.count(F.rank == 1) == 4
