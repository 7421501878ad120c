"""Contract: cancelling at any await leaves all or nothing, and everything usable."""

# ruff: noqa: S101 - tests, which say by their name what they check

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from common.db.core import ANY, Capability, DatabaseManager, Repository
from common.db.core.testing._base import ContractBase
from common.db.core.testing._entities import Sample
from common.testing import cancel_at_every_await

Call = Callable[[Repository[Sample]], Coroutine[Any, Any, object]]

# Each call, starting from the samples 1 and 2, ends in what is named beside it, or changes nothing.
_BEFORE = {1: "old", 2: "old"}
_WRITES: dict[str, tuple[Call, dict[int, str]]] = {
    "add": (lambda r: r.add(Sample(id=3, text="new")), {**_BEFORE, 3: "new"}),
    "add_many": (
        lambda r: r.add_many([Sample(id=n, text="new") for n in (3, 4, 5)]),
        {**_BEFORE, 3: "new", 4: "new", 5: "new"},
    ),
    "upsert": (lambda r: r.upsert(Sample(id=1, text="new")), {1: "new", 2: "old"}),
    "upsert_many": (
        lambda r: r.upsert_many([Sample(id=n, text="new") for n in (1, 2, 3)]),
        {1: "new", 2: "new", 3: "new"},
    ),
    "update": (lambda r: r.update(1, {"text": "new"}, expected=ANY), {1: "new", 2: "old"}),
    "delete": (lambda r: r.delete(1), {2: "old"}),
}


class CancellingContract(ContractBase):
    """Cancellation."""

    @pytest.mark.parametrize("method", sorted(_WRITES))
    async def test_a_cancelled_write_is_whole_or_nothing(
        self, database: DatabaseManager, samples: Repository[Sample], method: str
    ) -> None:
        call, after = _WRITES[method]
        await self._all_or_nothing(database, samples, lambda: call(samples), after)

    async def test_a_cancelled_unit_of_work_is_whole_or_nothing(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)

        async def work() -> None:
            async with database.transaction() as unit:
                mine = unit.repository(Sample)
                await mine.update(1, {"text": "new"}, expected=ANY)
                await mine.add_many([Sample(id=3, text="new"), Sample(id=4, text="new")])
                await mine.delete(2)

        await self._all_or_nothing(database, samples, work, {1: "new", 3: "new", 4: "new"})

    async def test_a_cancelled_read_leaves_everything_usable(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        await samples.add_many([Sample(id=n) for n in range(6)])

        async def read() -> None:
            await samples.get(1)
            await samples.find(limit=2, total=True)
            async with aclosing(samples.stream(batch=2)) as stream:
                async for _ in stream:
                    pass

        async def check() -> None:
            assert await samples.count() == 6
            await _nothing_in_use(database)

        assert await cancel_at_every_await(read, check) >= 3

    async def test_cancelled_opening_and_closing_leaks_nothing(
        self, database: DatabaseManager
    ) -> None:
        async def check() -> None:
            await _nothing_in_use(database)

        async def close_twice() -> None:
            await database.close()
            await database.close()

        assert (await database.health()).ok
        await check()
        await cancel_at_every_await(close_twice, check)
        assert not (await database.health()).ok

    async def _all_or_nothing(
        self,
        database: DatabaseManager,
        samples: Repository[Sample],
        start: Callable[[], Coroutine[Any, Any, object]],
        after: dict[int, str],
    ) -> None:
        async def reset() -> None:
            for sample in await samples.find():
                await samples.delete(sample.id)
            await samples.add_many([Sample(id=n, text=text) for n, text in _BEFORE.items()])

        async def check() -> None:
            stored = {sample.id: sample.text for sample in await samples.find()}
            assert stored in (_BEFORE, after)
            await _nothing_in_use(database)
            seen.append(stored == after)
            await reset()

        seen: list[bool] = []
        await reset()
        cancelled: Awaitable[int] = cancel_at_every_await(start, check)
        assert await cancelled >= 1
        assert seen[-1], "the last run was not cancelled, so it takes effect"


async def _nothing_in_use(database: DatabaseManager) -> None:
    pool = database.driver.pool()
    assert pool is None or (pool.in_use, pool.waiting) == (0, 0)
