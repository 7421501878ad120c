"""Contract: units of work, isolation, conflicts between tasks."""

# ruff: noqa: PT012, S101 - tests, which say by their name what they check

import asyncio

import pytest

from common.context import deadline
from common.db.core import (
    ANY,
    Capability,
    DatabaseManager,
    F,
    Isolation,
    Repository,
    SerializationConflict,
    SessionStateError,
    StaleVersionError,
    StatementTimeout,
    UniqueViolationError,
    UnitOfWork,
)
from common.db.core.testing._base import TENANT, ContractBase, ids
from common.db.core.testing._entities import Item, Sample
from common.errors import NotFoundError, ValidationError


class TransactionContract(ContractBase):
    """Units of work."""

    async def test_a_unit_of_work_takes_effect_at_its_end(
        self, database: DatabaseManager, items: Repository[Item], samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            mine = unit.repository(Item, tenant=TENANT)
            item = await mine.add(Item(slug="a"))
            await unit.repository(Sample).add(Sample(id=1))
            assert await mine.get(item.id) == item
            assert await mine.count() == 1
            assert await items.count() == await samples.count() == 0
        assert await items.get(item.id) == item
        assert await samples.count() == 1

    async def test_an_exception_undoes_everything(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        await samples.add(Sample(id=1, text="old"))
        with pytest.raises(RuntimeError, match="enough"):
            async with database.transaction() as unit:
                mine = unit.repository(Sample)
                await mine.update(1, {"text": "new"}, expected=ANY)
                await mine.add_many([Sample(id=2), Sample(id=3)])
                await mine.delete(1)
                raise RuntimeError("enough")
        assert list(await samples.find()) == [Sample(id=1, text="old")]

    async def test_a_caught_conflict_still_undoes_the_unit_of_work(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        await samples.add(Sample(id=1))
        with pytest.raises(SessionStateError) as left:
            async with database.transaction() as unit:
                mine = unit.repository(Sample)
                await mine.add(Sample(id=2))
                with pytest.raises(UniqueViolationError):
                    await mine.add(Sample(id=1))
                with pytest.raises(SessionStateError) as caught:
                    await mine.add(Sample(id=3))
                assert caught.value.state == "failed"
        assert left.value.state == "failed"
        assert isinstance(left.value.__cause__, UniqueViolationError)
        assert ids(await samples.find()) == [1]

    async def test_bad_input_and_missing_rows_do_not_undo_it(
        self, database: DatabaseManager, items: Repository[Item]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            mine = unit.repository(Item, tenant=TENANT)
            item = await mine.add(Item(slug="a"))
            with pytest.raises(ValidationError):
                await mine.find(F.slgu == "a")
            with pytest.raises(ValidationError):
                await mine.add(Item(slug="\0"))
            with pytest.raises(NotFoundError):
                await mine.get(Item(slug="b").id)
            with pytest.raises(StaleVersionError):
                await mine.update(item.id, {"rank": 1}, expected=9)
        assert await items.count() == 1

    async def test_a_unit_of_work_ends_with_its_block(self, database: DatabaseManager) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            mine = unit.repository(Sample)
            await mine.add_many([Sample(id=n) for n in range(5)])
            stream = mine.stream(batch=1)
            await anext(stream)
        for call in (mine.count, lambda: mine.add(Sample(id=9)), lambda: anext(stream)):
            with pytest.raises(SessionStateError) as caught:
                await call()
            assert caught.value.state == "closed"

    async def test_a_unit_of_work_belongs_to_one_task(self, database: DatabaseManager) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            mine = unit.repository(Sample)
            outcomes = await asyncio.gather(
                *(mine.add(Sample(id=n)) for n in range(3)), return_exceptions=True
            )
        refused = [each for each in outcomes if isinstance(each, SessionStateError)]
        assert [each.state for each in refused] == ["busy", "busy"]
        assert await database.repository(Sample).count() == 1

    async def test_a_read_only_unit_of_work_refuses_writes(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction(read_only=True) as unit:
            assert await unit.repository(Sample).count() == 0
            with pytest.raises(SessionStateError):
                await unit.repository(Sample).add(Sample(id=1))
        assert await samples.count() == 0

    async def test_no_update_is_lost_between_tasks(
        self, database: DatabaseManager, items: Repository[Item]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        item = await items.add(Item(slug="a", rank=0))
        tasks, rounds = 6, 5

        async def once(unit: UnitOfWork) -> None:
            mine = unit.repository(Item, tenant=TENANT)
            seen = await mine.get(item.id)
            await asyncio.sleep(0)
            await mine.update(item.id, {"rank": (seen.rank or 0) + 1}, expected=seen.version)

        async def count_up() -> None:
            done = 0
            while done < rounds:
                try:
                    await database.run(once, retries=20)
                    done += 1
                except StaleVersionError:
                    await asyncio.sleep(0)

        await asyncio.gather(*(count_up() for _ in range(tasks)))
        stored = await items.get(item.id)
        assert (stored.rank, stored.version) == (tasks * rounds, tasks * rounds + 1)

    async def test_of_many_adding_the_same_one_succeeds(self, items: Repository[Item]) -> None:
        self.needs(Capability.UNIQUE)
        outcomes = await asyncio.gather(
            *(items.add(Item(slug="a")) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(each, Item) for each in outcomes) == 1
        assert sum(isinstance(each, UniqueViolationError) for each in outcomes) == 7
        assert await items.count() == 1

    async def test_of_many_upserting_the_same_none_is_lost(
        self, samples: Repository[Sample]
    ) -> None:
        await asyncio.gather(*(samples.upsert(Sample(id=1, number=n)) for n in range(8)))
        assert await samples.count() == 1

    async def test_read_committed_sees_what_others_commit(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS)
        async with database.transaction() as unit:
            assert await unit.repository(Sample).count() == 0
            await samples.add(Sample(id=1))
            assert await unit.repository(Sample).count() == 1

    async def test_repeatable_read_sees_one_instant(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.ISOLATION)
        await samples.add(Sample(id=1, number=1))
        async with database.transaction(isolation=Isolation.REPEATABLE_READ) as unit:
            mine = unit.repository(Sample)
            assert await mine.count() == 1
            await samples.add(Sample(id=2))
            await samples.update(1, {"number": 2}, expected=ANY)
            assert await mine.count() == 1
            assert (await mine.get(1)).number == 1
        with pytest.raises(SerializationConflict):
            async with database.transaction(isolation=Isolation.REPEATABLE_READ) as unit:
                mine = unit.repository(Sample)
                await mine.get(1)
                await samples.update(1, {"number": 3}, expected=ANY)
                await mine.update(1, {"number": 4}, expected=ANY)
        assert (await samples.get(1)).number == 3

    async def test_serializable_prevents_write_skew(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        """Two doctors on call, each leaves because the other one stays (Berenson et al., 1995)."""
        self.needs(Capability.ISOLATION)
        await samples.add_many([Sample(id=1, flag=True), Sample(id=2, flag=True)])
        met = asyncio.Barrier(2)
        attempts = 0

        async def leave(unit: UnitOfWork, who: int) -> None:
            nonlocal attempts
            attempts += 1
            first_try = attempts <= 2
            mine = unit.repository(Sample)
            on_call = await mine.count(F.flag == True)  # noqa: E712
            if first_try:
                await met.wait()
            if on_call > 1:
                await mine.update(who, {"flag": False}, expected=ANY)

        await asyncio.gather(
            *(
                database.run(
                    lambda unit, who=who: leave(unit, who),  # type: ignore[misc]
                    isolation=Isolation.SERIALIZABLE,
                    retries=10,
                )
                for who in (1, 2)
            )
        )
        assert await samples.count(F.flag == True) == 1  # noqa: E712
        assert attempts > 2

    async def test_deadlocks_are_found_and_run_again(
        self, database: DatabaseManager, samples: Repository[Sample]
    ) -> None:
        self.needs(Capability.TRANSACTIONS, Capability.ISOLATION)
        await samples.add_many([Sample(id=1, number=0), Sample(id=2, number=0)])
        met = asyncio.Barrier(2)
        attempts = 0

        async def both(unit: UnitOfWork, first: int, second: int) -> None:
            nonlocal attempts
            attempts += 1
            crossing = attempts <= 2
            mine = unit.repository(Sample)
            await mine.update(first, {"number": first}, expected=ANY)
            if crossing:
                await met.wait()
            await mine.update(second, {"number": first}, expected=ANY)

        async with asyncio.timeout(60):
            await asyncio.gather(
                database.run(lambda unit: both(unit, 1, 2), retries=10),
                database.run(lambda unit: both(unit, 2, 1), retries=10),
            )
        numbers = {sample.number for sample in await samples.find()}
        assert numbers in ({1}, {2})
        assert attempts == 3

    async def test_the_deadline_ends_the_work(self, samples: Repository[Sample]) -> None:
        with pytest.raises((TimeoutError, StatementTimeout)):
            async with deadline(0.005):
                while True:
                    await samples.count()
        assert await samples.count() == 0
