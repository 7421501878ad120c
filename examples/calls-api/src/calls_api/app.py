"""The HTTP interface."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Final, cast
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Query, Request, Response, status
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from redis.exceptions import RedisError as RedisClientError

from calls_api.context import ContextMiddleware
from calls_api.events import make_outbox
from calls_api.idempotency import call_id_for
from calls_api.models import CallPage, CallView, EndCall, ListCalls, Readiness, StartCall, Summary
from calls_api.processing import processed_at
from calls_api.settings import Settings
from calls_api.store import CallStore
from calls_api.tables import Call, migrations
from common.db.core import Health
from common.db.postgres import PostgresDatabase
from common.db.postgres.fastapi import DatabaseDep, get_database_health, set_database
from common.errors import AppError, DatabaseError, RedisError, map_errors
from common.events.outbox import OutboxAdmin

LATE_SECONDS: Final = 5.0
"""Events that wait for so long say that there is no relay, or no broker."""


def create_app(settings: Settings) -> FastAPI:
    """The application; connections open when it starts and close when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await migrations(settings.database).upgrade()
            database = await stack.enter_async_context(PostgresDatabase(settings.database))
            set_database(app, database)
            app.state.store = CallStore(database, make_outbox())
            app.state.redis = Redis.from_url(
                settings.redis_url.get_secret_value(), decode_responses=True
            )
            stack.push_async_callback(app.state.redis.aclose)
            yield

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
    async def end_call(call_id: UUID, body: EndCall, store: StoreDep) -> CallView:
        return CallView.of(await store.end(call_id, body))

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
        health: Annotated[Health, Depends(get_database_health)],
        database: DatabaseDep,
        response: Response,
    ) -> Readiness:
        lag = None
        if health.ok:
            with suppress(DatabaseError):
                lag = await OutboxAdmin(database).lag()
        else:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        late = lag is None or lag.age > LATE_SECONDS
        return Readiness(ok=health.ok, degraded=late, database=health, outbox=lag)


async def _show(database: PostgresDatabase, call: Call) -> CallView:
    at = await processed_at(database, [call])
    return CallView.of(call, processed_at=at.get(call.call_id))
