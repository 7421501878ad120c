"""What all parts of the contract suite share."""

from typing import Any, ClassVar

import pytest

from common.db.core import Capability, DatabaseManager, Repository
from common.db.core.testing._entities import Item, Pair, Sample

TENANT = {"merchant": "m1", "domain": "shop"}
OTHER = {"merchant": "m2", "domain": "shop"}


class ContractBase:
    """Fixtures of the suite.

    Attributes:
        capabilities: What the backend can do; tests of what it cannot are skipped, and one
            checks that it says so.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)

    @pytest.fixture
    async def database(self) -> DatabaseManager:
        """Yield an open manager with empty tables for `contract_entities`."""
        raise NotImplementedError("override the fixture `database` in the subclass")

    @pytest.fixture
    def items(self, database: DatabaseManager) -> Repository[Item]:
        """Items of one tenant."""
        return database.repository(Item, tenant=TENANT)

    @pytest.fixture
    def others(self, database: DatabaseManager) -> Repository[Item]:
        """Items of another tenant."""
        return database.repository(Item, tenant=OTHER)

    @pytest.fixture
    def samples(self, database: DatabaseManager) -> Repository[Sample]:
        """Samples, which belong to nobody."""
        return database.repository(Sample)

    @pytest.fixture
    def pairs(self, database: DatabaseManager) -> Repository[Pair]:
        """Entities with two key fields."""
        return database.repository(Pair)

    def needs(self, *capabilities: Capability) -> None:
        """Skip the test unless the backend has the capabilities."""
        for capability in capabilities:
            if capability not in self.capabilities:
                pytest.skip(f"this backend has no {capability}")


async def collect(entities: Any) -> list[Any]:
    """Return all that an asynchronous iterator yields."""
    return [entity async for entity in entities]


def slugs(items: Any) -> list[str]:
    """Return the slugs of items."""
    return [item.slug for item in items]


def ids(entities: Any) -> list[Any]:
    """Return the ids of entities."""
    return [entity.id for entity in entities]
