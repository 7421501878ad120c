"""The service on real servers."""

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from calls_api.app import create_app
from calls_api.events import make_bus
from calls_api.settings import Database, Nats, Settings
from pydantic import SecretStr

from common.config import SecretUrl
from common.db.postgres import PostgresDatabase
from common.events.outbox import Relay, RelayConfig

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out


@asynccontextmanager
async def serving(settings):
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://calls",
        ) as client,
    ):
        yield client


@asynccontextmanager
async def relaying(settings):
    async with (
        PostgresDatabase(settings.database) as database,
        make_bus(settings) as bus,
        Relay(database, bus.transport, settings.relay),
    ):
        yield bus


@pytest.fixture
def relay():
    """Start a relay in this process, when the service has made the tables:
    `async with relay(settings) as bus`.
    """
    return relaying


@pytest.fixture
def serve():
    """Start the service in this process: `async with serve(settings) as client`."""
    return serving


@pytest.fixture
def settings(postgres_url, nats_url, redis_url):
    return Settings(
        database=Database(url=postgres_url),
        nats=Nats(servers=(SecretStr(nats_url),)),
        redis_url=SecretUrl(redis_url),
        relay=RelayConfig(retry_max_seconds=1),
    )


@pytest.fixture
async def api(settings):
    async with serving(settings) as client:
        yield client


@pytest.fixture
async def bus(api, settings):
    """The bus of a relay that runs."""
    async with relaying(settings) as bus:
        yield bus


@pytest.fixture
async def administrator(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()
