"""The service on real servers."""

import asyncio
import socket
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
import uvicorn
from calls_api.app import create_app
from calls_api.events import make_bus
from calls_api.main import server_config
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


class Server(uvicorn.Server):
    """Leaves signals to pytest."""

    @contextmanager
    def capture_signals(self):
        yield


@asynccontextmanager
async def listening(settings):
    """The service behind its real server; yields the port."""
    # Without its protocol, asyncio would leave Nagle's algorithm on: 40 ms for each request.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(server_config(create_app(settings), settings))
        task = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(60):
                while not server.started:
                    assert not task.done(), task
                    await asyncio.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


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
def listen():
    """Start the service with its server: `async with listen(settings) as port`."""
    return listening


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
        drain_seconds=0,
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
