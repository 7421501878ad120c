"""Databases with the tables of the outbox, and one for the effects of changes."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.db.postgres import PostgresDatabase
from common.events.core import InMemoryBroker, InMemoryTransport
from common.events.outbox.migrations import OutboxMigrations

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out

from outbox_support import config_of, connect, declare, run_sql

# Programs, which need a transport that this package does without; there are no doctests in them.
collect_ignore_glob = ["outbox_*.py", "relay_worker.py"]


async def make_tables(url: str) -> None:
    await OutboxMigrations(config_of(url)).upgrade()
    async with connect(url) as database:
        await run_sql(database, "CREATE TABLE lamp (id text PRIMARY KEY, number int NOT NULL)")
        await run_sql(database, "CREATE TABLE effect (consumer text, id text, number int)")


@pytest.fixture(scope="session")
def postgres_template():
    return make_tables


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    async with connect(postgres_url) as opened:
        yield opened


@pytest.fixture
def broker() -> InMemoryBroker:
    return InMemoryBroker()


@pytest.fixture
async def transport(broker: InMemoryBroker) -> AsyncIterator[InMemoryTransport]:
    async with InMemoryTransport(broker) as opened:
        await declare(opened)
        yield opened
