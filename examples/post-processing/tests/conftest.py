"""The worker on real servers, and a calls-api to feed it."""

import json
import sys
from pathlib import Path

import asyncpg
import pytest
from post_processing.settings import Database, Nats, Settings
from post_processing.tables import migrations
from post_processing.worker import make_bus
from pydantic import SecretStr

from common.db.postgres import PostgresDatabase
from common.domain import streams
from common.events.core import DEAD_LETTER_STREAM, BusConfig, EventBus
from common.events.nats import NatsTransport

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out


@pytest.fixture
def settings(postgres_url, nats_url):
    return Settings(database=Database(url=postgres_url), nats=Nats(servers=(SecretStr(nats_url),)))


@pytest.fixture
def environment(postgres_url, nats_url):
    """For the worker as a process of its own."""
    return {
        "POST_PROCESSING_DATABASE__URL": postgres_url,
        "POST_PROCESSING_NATS__SERVERS": json.dumps([nats_url]),
    }


@pytest.fixture
async def database(settings):
    await migrations(settings.database).upgrade()
    async with PostgresDatabase(settings.database) as opened:
        yield opened


@pytest.fixture
async def administrator(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def calls(settings):
    """The bus of calls-api."""
    bus = EventBus(
        NatsTransport(settings.nats),
        source="/calls",
        service="calls-api",
        streams=streams.extended(services={"calls-api": ["CALL"]}),
        config=BusConfig(streams=(DEAD_LETTER_STREAM,)),
    )
    async with bus:
        yield bus


@pytest.fixture
async def worker(settings, database):
    """A worker in this process."""
    bus = make_bus(settings, database)
    await bus.start()
    yield bus
    await bus.stop(drain=10)
