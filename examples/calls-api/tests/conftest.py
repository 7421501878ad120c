"""The service on real servers."""

from contextlib import asynccontextmanager

import httpx
import pytest
from calls_api.app import create_app
from calls_api.settings import Database, Nats, Settings
from pydantic import SecretStr

from common.config import SecretUrl


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
    )


@pytest.fixture
async def api(settings):
    async with serving(settings) as client:
        yield client
