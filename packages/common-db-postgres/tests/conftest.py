"""Databases with the tables of the tests' entities."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from common.db.core.testing import contract_entities
from common.db.postgres import PostgresDatabase, table_for

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out

from postgres_entities import connect, metadata

for each in contract_entities:
    table_for(each, metadata)


async def create_tables(url: str) -> None:
    engine = create_async_engine(
        url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


@pytest.fixture(scope="session")
def postgres_template():
    return create_tables


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    async with connect(postgres_url, timeout_seconds=5) as opened:
        yield opened
