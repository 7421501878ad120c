from dataclasses import dataclass
from uuid import UUID

import pytest

from common.context import bind
from common.db.core import (
    ALL_TENANTS,
    Capability,
    MemoryDatabase,
    TenantRequiredError,
    UnknownFieldError,
    UnsupportedOperation,
    entity,
)
from common.errors import NotFoundError, ValidationError


@entity(table="notes", tenant="owner")
@dataclass
class Note:
    id: int
    owner: str


@entity(table="files", tenant="owner")
@dataclass
class File:
    id: int
    owner: UUID


@pytest.fixture
async def database():
    async with MemoryDatabase() as database:
        yield database


async def test_the_contexts_tenant_is_taken_when_the_repository_is_made(database):
    with bind(tenant="a"):
        of_a = database.repository(Note)
    with bind(tenant="b"):
        of_b = database.repository(Note)
        await of_a.add(Note(1, "a"))
        assert await of_b.count() == 0
        with pytest.raises(NotFoundError):
            await of_b.get(1)
        assert await database.repository(Note, tenant="a").count() == 1
        async with database.transaction() as unit:
            assert await unit.repository(Note).count() == 0


def test_no_tenant_is_never_all_tenants(database):
    for tenant in (None, {}):
        with pytest.raises(TenantRequiredError, match="ALL_TENANTS") as caught:
            database.repository(Note, tenant=tenant)
        assert caught.value.entity == "Note"
    with bind(tenant=""), pytest.raises(TenantRequiredError):
        database.repository(Note)  # an empty header
    with bind(tenant="a"), pytest.raises(TenantRequiredError):
        database.repository(File)  # its tenants are no text: nothing is guessed
    with pytest.raises(UnknownFieldError):
        database.repository(Note, tenant={"ownr": "a"})
    for wrong in (1, "\0", UUID(int=1)):
        with pytest.raises(ValidationError):
            database.repository(Note, tenant=wrong)
    with pytest.raises(ValidationError):
        database.repository(File, tenant="00000000-0000-0000-0000-000000000001")


async def test_one_tenant_field_takes_the_value_alone_or_by_name(database):
    await database.repository(File, tenant=UUID(int=1)).add(File(1, UUID(int=1)))
    assert await database.repository(File, tenant={"owner": UUID(int=1)}).count() == 1
    assert await database.repository(File, tenant=UUID(int=2)).count() == 0
    assert await database.repository(File, tenant=ALL_TENANTS).count() == 1


def test_a_backend_may_lack_repositories_over_all_tenants(database):
    database.driver.capabilities = frozenset(Capability) - {Capability.ALL_TENANTS}
    with pytest.raises(UnsupportedOperation):
        database.repository(Note, tenant=ALL_TENANTS)
    database.repository(Note, tenant="a")


async def test_a_backend_may_lack_offsets_transactions_and_isolation(database):
    notes = database.repository(Note, tenant="a")
    database.driver.capabilities = frozenset({Capability.TRANSACTIONS})
    for call in (lambda: notes.list(offset=1), lambda: notes.find_page(page=2)):
        with pytest.raises(UnsupportedOperation):
            await call()
    assert await notes.list() == []
    assert (await notes.find_page()).items == []
    with pytest.raises(UnsupportedOperation, match="isolation"):
        await database.transaction(isolation="serializable").__aenter__()
    database.driver.capabilities = frozenset()
    with pytest.raises(UnsupportedOperation, match="transactions"):
        await database.transaction().__aenter__()
