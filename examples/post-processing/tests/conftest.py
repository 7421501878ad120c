"""The worker on real servers, and a calls-api to feed it."""

import json
import sys
from pathlib import Path

import asyncpg
import pytest
from post_processing.events import make_bus
from post_processing.settings import Database, Nats, Settings
from post_processing.tables import migrations
from post_processing.worker import make_worker
from pydantic import SecretStr

from common.db.postgres import PostgresDatabase
from common.domain import streams
from common.events.core import DEAD_LETTER_STREAM, BusConfig, EventBus
from common.events.nats import NatsTransport
from common.events.outbox import Relay, RelayConfig

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out


@pytest.fixture
def settings(postgres_url, nats_url):
    return Settings(
        database=Database(url=postgres_url),
        nats=Nats(servers=(SecretStr(nats_url),)),
        calls_api_url="http://127.0.0.1:9",  # nobody, unless a test needs it
        relay=RelayConfig(retry_max_seconds=1),
    )


@pytest.fixture
def environment(postgres_url, nats_url):
    """For the worker as a process of its own."""
    return {
        "POST_PROCESSING_DATABASE__URL": postgres_url,
        "POST_PROCESSING_NATS__SERVERS": json.dumps([nats_url]),
        "POST_PROCESSING_CALLS_API_URL": "http://127.0.0.1:9",
        "POST_PROCESSING_RELAY__LEASE_SECONDS": "2",
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
async def worker(settings, database, monkeypatch):
    """A worker in this process."""
    # Nobody is killed here: however slow this machine is, nothing shall be delivered again.
    monkeypatch.setattr("post_processing.worker.ACK_WAIT_SECONDS", 60.0)
    bus = make_worker(settings, database)
    await bus.start()
    yield bus
    await bus.stop(drain=10)


@pytest.fixture
async def results(settings, database):
    """The bus of a relay that runs in this process."""
    async with make_bus(settings) as bus, Relay(database, bus.transport, settings.relay):
        yield bus
