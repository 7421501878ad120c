"""The application: what it opens, what it is asked about itself, and its conventions."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from redis.asyncio import Redis

from calls_api.events import SERVICE, make_outbox
from calls_api.routes import operation_id, router
from calls_api.settings import Settings
from calls_api.store import CallStore
from calls_api.tables import migrations
from common.api import Check, Health, Limits, install
from common.db.postgres import PostgresDatabase
from common.events.core import TransportHealth
from common.events.nats import NatsTransport
from common.events.outbox import OutboxAdmin

LATE_SECONDS: Final = 5.0
"""Events that wait for so long say that there is no relay, or no broker."""

LIMITS: Final = Limits(max_body=16 * 1024)
REQUEST_SECONDS: Final = 30.0
CHECK_SECONDS: Final = 0.5
"""Less than what probes wait for the whole answer, which is a second in Kubernetes."""


def create_app(settings: Settings) -> FastAPI:
    """The application; connections open when it starts and close when it stops."""
    database = PostgresDatabase(settings.database)
    redis = Redis.from_url(
        settings.redis_url.get_secret_value(), decode_responses=True, socket_timeout=5
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await migrations(settings.database).upgrade()
        async with database, redis:
            app.state.store = CallStore(database, make_outbox())
            app.state.redis = redis
            yield

    async def events_leave() -> bool:
        return (await OutboxAdmin(database).lag()).age <= LATE_SECONDS

    async def broker() -> TransportHealth:
        # Only the relay stays connected: requests need no broker.
        async with NatsTransport(settings.nats) as transport:
            return await transport.health()

    async def keys() -> None:
        await redis.ping()

    app = FastAPI(title=SERVICE, lifespan=lifespan, generate_unique_id_function=operation_id)
    app.include_router(router)
    install(
        app,
        service=SERVICE,
        errors="envelope",
        health=Health(
            ready=[
                Check("database", database.health, CHECK_SECONDS),
                Check("outbox", events_leave, CHECK_SECONDS, critical=False),
                Check("nats", broker, CHECK_SECONDS, critical=False),
                Check("redis", keys, CHECK_SECONDS, critical=False),
            ],
            drain=settings.drain_seconds,
        ),
        proxies=settings.proxies,
        hosts=settings.hosts,
        limits=LIMITS,
        decompress=True,
        default_deadline=REQUEST_SECONDS,
    )
    return app
