"""Contract: tenants and soft delete hold on every public method."""

# ruff: noqa: ARG005, S101 - tests, which say by their name what they check

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.context import bind
from common.db.core import (
    ALL_TENANTS,
    ANY,
    Capability,
    DatabaseManager,
    F,
    Predicate,
    Query,
    Repository,
    TenantMismatchError,
    TenantRequiredError,
    UniqueViolationError,
    UnknownFieldError,
)
from common.db.core.testing._base import OTHER, TENANT, ContractBase, collect, slugs
from common.db.core.testing._entities import Item, Sample
from common.errors import ConflictError, ForbiddenError, NotFoundError, ValidationError

Probe = Callable[[Repository[Item], Item], Awaitable[object]]

# What sees everything unless tenant and soft delete are added by the library.
_TEMPTING: tuple[Predicate, ...] = (
    F.slug.not_null(),
    F.slug.not_null() | F.deleted_at.not_null(),
    F.merchant.in_(["m1", "m2"]),
    ~(F.merchant == "m3"),
    F.deleted_at.not_null(),
)


async def _refused(awaitable: Awaitable[object], *errors: type[Exception]) -> object:
    try:
        await awaitable
    except errors:
        return None
    return "was not refused"


async def _for_each(call: Callable[[Any], Awaitable[object]]) -> object:
    """Return the first thing that a tempting query got to see."""
    for where in _TEMPTING:
        for query in (where, Query(where, order_by=F.rank.desc())):
            if seen := await call(query):
                return seen
    return await call(None)


async def _pages(repository: Repository[Item], query: Any) -> object:
    page = await repository.find(query, total=True)
    return list(page.items) or page.total


async def _numbered(repository: Repository[Item], query: Any) -> object:
    page = await repository.find_page(query, total=True)
    return list(page.items) or page.total


# For each public method: return something true if the hidden row was seen or touched.
PROBES: dict[str, Probe] = {
    "get": lambda r, row: _refused(r.get(row.id), NotFoundError),
    "find_one": lambda r, row: _for_each(r.find_one),
    "find": lambda r, row: _for_each(lambda query: _pages(r, query)),
    "find_page": lambda r, row: _for_each(lambda query: _numbered(r, query)),
    "list": lambda r, row: r.list({"id": row.id}),
    "count": lambda r, row: _for_each(r.count),
    "exists": lambda r, row: _for_each(r.exists),
    "stream": lambda r, row: _for_each(lambda query: collect(r.stream(query))),
    "add": lambda r, row: _refused(r.add(row), ConflictError, ForbiddenError),
    "add_many": lambda r, row: _refused(r.add_many([row]), ConflictError, ForbiddenError),
    "upsert": lambda r, row: _refused(r.upsert(row), ConflictError, ForbiddenError),
    "upsert_many": lambda r, row: _refused(r.upsert_many([row]), ConflictError, ForbiddenError),
    "update": lambda r, row: _refused(r.update(row.id, {"rank": 9}, expected=ANY), NotFoundError),
    "delete": lambda r, row: r.delete(row.id),
}


def public_methods() -> set[str]:
    """Return the names of all public methods of a repository."""
    return {
        name
        for name in dir(Repository)
        if not name.startswith("_") and callable(getattr(Repository, name))
    }


class ScopingContract(ContractBase):
    """Tenants and soft delete."""

    def test_every_public_method_is_probed(self) -> None:
        assert set(PROBES) == public_methods()

    @pytest.mark.parametrize("method", sorted(PROBES))
    async def test_no_method_reaches_another_tenants_row(
        self, items: Repository[Item], others: Repository[Item], method: str
    ) -> None:
        if method == "find_page":
            self.needs(Capability.OFFSET)
        row = await others.add(Item(merchant="m2", slug="a", rank=1))
        # As it is, and as an attacker would write it who knows the id.
        for seen in (row, row.model_copy(update={"merchant": "m1"})):
            assert not await PROBES[method](items, seen)
        assert await others.get(row.id) == row
        assert await items.count() == 0

    @pytest.mark.parametrize("method", sorted(PROBES))
    async def test_no_method_reaches_a_deleted_row(
        self, database: DatabaseManager, items: Repository[Item], method: str
    ) -> None:
        if method == "find_page":
            self.needs(Capability.OFFSET)
        row = await items.add(Item(slug="a", rank=1))
        assert await items.delete(row.id)
        assert not await PROBES[method](items, row)
        if Capability.ALL_TENANTS in self.capabilities:
            assert not await PROBES[method](database.repository(Item, tenant=ALL_TENANTS), row)
        assert await items.count() == 0
        assert await items.delete(row.id) is False

    async def test_bulk_writes_leave_other_tenants_rows_alone(
        self, items: Repository[Item], others: Repository[Item]
    ) -> None:
        row = await others.add(Item(merchant="m2", slug="a", rank=1))
        mine = await items.add(Item(slug="b", rank=1))
        stolen = row.model_copy(update={"merchant": "m1", "rank": 9})
        for write in (items.upsert_many, items.add_many):
            with pytest.raises(UniqueViolationError):
                await write([Item(slug="c"), stolen])
        with pytest.raises(UniqueViolationError):
            await items.upsert_many([mine.model_copy(update={"rank": 9}), stolen])
        assert await others.get(row.id) == row
        assert await items.get(mine.id) == mine
        assert await items.count() == 1

    async def test_an_entity_of_another_tenant_is_refused(self, items: Repository[Item]) -> None:
        foreign = Item(merchant="m2", slug="a")
        for write in (
            lambda: items.add(foreign),
            lambda: items.upsert(foreign),
            lambda: items.upsert(foreign, expected=1),
            lambda: items.add_many([Item(slug="b"), foreign]),
            lambda: items.upsert_many([Item(slug="b"), foreign]),
        ):
            with pytest.raises(TenantMismatchError):
                await write()
        assert await items.count() == 0

    async def test_tenants_may_use_the_same_values(
        self, items: Repository[Item], others: Repository[Item]
    ) -> None:
        await items.add(Item(slug="a", rank=1))
        await others.add(Item(merchant="m2", slug="a", rank=2))
        assert [item.rank for item in await items.find()] == [1]
        assert [item.rank for item in await others.find()] == [2]

    async def test_all_tenants_are_written_out(
        self, database: DatabaseManager, items: Repository[Item], others: Repository[Item]
    ) -> None:
        self.needs(Capability.ALL_TENANTS)
        mine = await items.add(Item(slug="a"))
        theirs = await others.add(Item(merchant="m2", slug="b"))
        every = database.repository(Item, tenant=ALL_TENANTS)
        assert sorted(slugs(await every.find())) == ["a", "b"]
        await every.update(theirs.id, {"rank": 5}, expected=1)
        assert (await others.get(theirs.id)).rank == 5
        # A row keeps its tenant even so.
        moved = mine.model_copy(update={"merchant": "m2"})
        for write in (every.upsert, lambda entity: every.upsert_many([entity])):
            with pytest.raises(UniqueViolationError):
                await write(moved)
        with pytest.raises(ValidationError):
            await every.update(mine.id, {"merchant": "m2"}, expected=ANY)
        assert await items.get(mine.id) == mine

    def test_a_tenant_is_required_and_checked(self, database: DatabaseManager) -> None:
        for missing in (None, {}, {"merchant": "m1"}, {"merchant": "m1", "domain": None}):
            with pytest.raises(TenantRequiredError):
                database.repository(Item, tenant=missing)
        with bind(tenant="m1"), pytest.raises(TenantRequiredError):
            database.repository(Item)  # the context knows one value, two are needed
        with pytest.raises(UnknownFieldError):
            database.repository(Item, tenant={**TENANT, "merchnat": "m1"})
        for wrong in ("m1", {"merchant": 7, "domain": "d"}, {"merchant": "\0", "domain": "d"}):
            with pytest.raises(ValidationError):
                database.repository(Item, tenant=wrong)
        with pytest.raises(ValidationError):
            database.repository(Sample, tenant="m1")

    async def test_a_deleted_row_keeps_its_key(self, items: Repository[Item]) -> None:
        row = await items.add(Item(slug="a"))
        await items.delete(row.id, expected=1)
        for write in (items.add, items.upsert):
            with pytest.raises(UniqueViolationError) as caught:
                await write(Item(id=row.id, slug="b"))
            assert caught.value.fields == ("id",)

    async def test_marking_as_deleted_by_hand_is_refused(self, items: Repository[Item]) -> None:
        row = await items.add(Item(slug="a"))
        marked = row.model_copy(update={"deleted_at": row.created_at})
        for write in (items.add, items.upsert):
            with pytest.raises(ValidationError) as caught:
                await write(marked)
            assert caught.value.field == "deleted_at"
        assert OTHER != TENANT
        assert await items.get(row.id) == row
