"""The HTTP interface."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, cast
from uuid import UUID

import asyncpg
import nats
from fastapi import Depends, FastAPI, Header, Query, Request, status
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from redis.exceptions import RedisError as RedisClientError

from calls_api.context import ContextMiddleware
from calls_api.idempotency import call_id_for
from calls_api.models import Call, CallPage, EndCall, StartCall, Summary
from calls_api.publisher import CallPublisher
from calls_api.settings import Settings
from calls_api.store import CallStore
from common.domain.calls import CallStatus
from common.errors import AppError, DatabaseError, RedisError, map_errors

foreign_errors = map_errors(
    {
        asyncpg.PostgresError: DatabaseError,
        asyncpg.InterfaceError: DatabaseError,
        RedisClientError: RedisError,
        OSError: DatabaseError,
    }
)


def create_app(settings: Settings) -> FastAPI:
    """The application; connections open when it starts and close when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                asyncpg.create_pool(
                    settings.database_url.get_secret_value(), min_size=1, max_size=10
                )
            )
            connection = await nats.connect(
                settings.nats_url.get_secret_value(), max_reconnect_attempts=-1
            )
            stack.push_async_callback(connection.close)
            app.state.redis = Redis.from_url(
                settings.redis_url.get_secret_value(), decode_responses=True
            )
            stack.push_async_callback(app.state.redis.aclose)
            app.state.store = CallStore(pool)
            app.state.publisher = CallPublisher(connection, app.state.store)
            await app.state.store.migrate()
            await app.state.publisher.declare()
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


def _store(request: Request) -> CallStore:
    return cast("CallStore", request.app.state.store)


def _publisher(request: Request) -> CallPublisher:
    return cast("CallPublisher", request.app.state.publisher)


def _redis(request: Request) -> Redis:
    return cast("Redis", request.app.state.redis)


StoreDep = Annotated[CallStore, Depends(_store)]


def _add_routes(app: FastAPI) -> None:
    @app.post("/calls", status_code=status.HTTP_201_CREATED)
    @foreign_errors
    async def start_call(
        body: StartCall,
        store: StoreDep,
        redis: Annotated[Redis, Depends(_redis)],
        idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
    ) -> Call:
        return await store.start(await call_id_for(redis, idempotency_key), body.phone_number)

    @app.post("/calls/{call_id}/end")
    @foreign_errors
    async def end_call(
        call_id: UUID,
        body: EndCall,
        store: StoreDep,
        publisher: Annotated[CallPublisher, Depends(_publisher)],
    ) -> Call:
        call = await store.end(call_id, body)
        await publisher.try_completed(call)
        return call

    @app.get("/calls/{call_id}")
    @foreign_errors
    async def get_call(call_id: UUID, store: StoreDep) -> Call:
        return await store.get(call_id)

    @app.get("/calls")
    @foreign_errors
    async def list_calls(
        store: StoreDep,
        status: CallStatus | None = None,
        processed: bool | None = None,  # noqa: FBT001 - a query parameter has a name
        after: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ) -> CallPage:
        calls = await store.page(status=status, processed=processed, after=after, limit=limit)
        return CallPage(calls=calls, next_after=calls[-1].call_id if len(calls) == limit else None)

    @app.get("/summary")
    @foreign_errors
    async def summary(store: StoreDep) -> Summary:
        return await store.summary()

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}
