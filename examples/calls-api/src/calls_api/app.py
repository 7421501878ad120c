"""The HTTP interface."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Query, Request, Response, status
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from redis.exceptions import RedisError as RedisClientError

from calls_api.context import ContextMiddleware
from calls_api.events import make_bus
from calls_api.idempotency import call_id_for
from calls_api.models import CallPage, CallView, EndCall, ListCalls, Readiness, StartCall, Summary
from calls_api.processing import processed_at
from calls_api.publisher import CallPublisher
from calls_api.settings import Settings
from calls_api.store import CallStore
from calls_api.tables import Call, migrations
from common.db.core import Health
from common.db.postgres import PostgresDatabase
from common.db.postgres.fastapi import DatabaseDep, get_database_health, set_database
from common.errors import AppError, RedisError, map_errors
from common.events.core import EventBus


def create_app(settings: Settings) -> FastAPI:
    """The application; connections open when it starts and close when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await migrations(settings.database).upgrade()
            database = await stack.enter_async_context(PostgresDatabase(settings.database))
            set_database(app, database)
            app.state.bus = await stack.enter_async_context(make_bus(settings))
            app.state.redis = Redis.from_url(
                settings.redis_url.get_secret_value(), decode_responses=True
            )
            stack.push_async_callback(app.state.redis.aclose)
            app.state.publisher = CallPublisher(app.state.bus, CallStore(database))
            sweep = asyncio.create_task(app.state.publisher.sweep())
            try:
                yield
            finally:
                sweep.cancel()
                await asyncio.wait([sweep])

    app = FastAPI(title="calls-api", lifespan=lifespan)
    app.add_middleware(ContextMiddleware)
    app.add_exception_handler(AppError, _show_error)
    _add_routes(app)
    return app


async def _show_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, AppError):
        raise error
    return JSONResponse({"error": error.to_dict()}, status_code=error.status)


def _store(database: DatabaseDep) -> CallStore:
    return CallStore(database)


def _publisher(request: Request) -> CallPublisher:
    return cast("CallPublisher", request.app.state.publisher)


def _bus(request: Request) -> EventBus:
    return cast("EventBus", request.app.state.bus)


def _redis(request: Request) -> Redis:
    return cast("Redis", request.app.state.redis)


StoreDep = Annotated[CallStore, Depends(_store)]


def _add_routes(app: FastAPI) -> None:
    @app.post("/calls", status_code=status.HTTP_201_CREATED)
    async def start_call(
        body: StartCall,
        store: StoreDep,
        database: DatabaseDep,
        redis: Annotated[Redis, Depends(_redis)],
        idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
    ) -> CallView:
        with map_errors({RedisClientError: RedisError}):
            call_id = await call_id_for(redis, idempotency_key)
        call = await store.start(call_id, body.phone_number)
        return await _show(database, call)

    @app.post("/calls/{call_id}/end")
    async def end_call(
        call_id: UUID,
        body: EndCall,
        store: StoreDep,
        publisher: Annotated[CallPublisher, Depends(_publisher)],
    ) -> CallView:
        call = await store.end(call_id, body)
        await publisher.try_completed(call)
        return CallView.of(call)

    @app.get("/calls/{call_id}")
    async def get_call(call_id: UUID, store: StoreDep, database: DatabaseDep) -> CallView:
        return await _show(database, await store.get(call_id))

    @app.get("/calls")
    async def list_calls(
        store: StoreDep, database: DatabaseDep, query: Annotated[ListCalls, Query()]
    ) -> CallPage:
        page = await store.page(status=query.status, after=query.after, limit=query.limit)
        at = await processed_at(database, page)
        return CallPage(
            calls=[
                CallView.of(call, processed_at=at.get(call.call_id))
                for call in page
                if query.processed is None or query.processed == (call.call_id in at)
            ],
            next_after=page.next,
        )

    @app.get("/summary")
    async def summary(store: StoreDep) -> Summary:
        return await store.summary()

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready(
        database: Annotated[Health, Depends(get_database_health)],
        bus: Annotated[EventBus, Depends(_bus)],
        response: Response,
    ) -> Readiness:
        events = await bus.health()
        if not database.ok:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Readiness(ok=database.ok, degraded=not events.ok, database=database, events=events)


async def _show(database: PostgresDatabase, call: Call) -> CallView:
    at = await processed_at(database, [call])
    return CallView.of(call, processed_at=at.get(call.call_id))
