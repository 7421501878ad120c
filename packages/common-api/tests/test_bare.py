"""Under the stack everything behaves as on bare Starlette and FastAPI."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from api_drivers import alive, ask, scope_of, talk
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from common.api import Health, MemoryIdempotencyStore, install
from common.context import current

Dress = Callable[[FastAPI], FastAPI]
variable: ContextVar[str] = ContextVar("variable", default="unset")


def bare(app: FastAPI) -> FastAPI:
    return app


def stacked(app: FastAPI) -> FastAPI:
    install(
        app,
        service="orders",
        hosts=["api.test", "127.0.0.1"],
        decompress=True,
        health=Health(),
        default_deadline=60.0,
        idempotency=MemoryIdempotencyStore(),
    )
    return app


@pytest.fixture(params=[bare, stacked])
def dress(request) -> Dress:
    return request.param


async def test_a_stream_goes_out_piece_by_piece(dress: Dress):
    app, go = dress(FastAPI()), asyncio.Event()

    @app.get("/")
    async def stream():
        async def parts():
            yield b"1"
            await go.wait()
            yield b"2"

        return StreamingResponse(parts())

    messages = asyncio.Queue()

    async def receive() -> Any:
        await asyncio.Event().wait()

    task = asyncio.create_task(app(scope_of(), receive, messages.put))
    assert (await messages.get())["type"] == "http.response.start"
    assert (await messages.get())["body"] == b"1"
    go.set()
    assert (await messages.get())["body"] == b"2"
    await task


async def test_a_disconnect_ends_a_stream_and_its_generator(dress: Dress):
    app, ended = dress(FastAPI()), asyncio.Event()

    @app.get("/")
    async def stream():
        async def parts():
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(parts())

    answer = await talk(app, scope_of(), [{"type": "http.disconnect"}])
    assert answer.error is None
    await asyncio.wait_for(ended.wait(), 20)


async def test_background_tasks_run_after_the_response_in_its_context(dress: Dress):
    app, seen = dress(FastAPI()), []

    @app.get("/")
    async def handler(tasks: BackgroundTasks):
        variable.set("handler")
        tasks.add_task(lambda: seen.append((variable.get(), threading.current_thread().name)))
        return current().request_id

    answer = await ask(app)
    assert (answer.status, seen[0][0]) == (200, "handler")
    assert seen[0][1] != "MainThread"


async def test_context_variables_reach_sync_dependencies_and_handlers(dress: Dress):
    app = dress(FastAPI())

    async def outer():
        variable.set("dependency")

    def inner(_: None = Depends(outer)):
        return variable.get(), current().request_id, threading.current_thread().name

    @app.get("/")
    def handler(found: tuple[str, ...] = Depends(inner)):
        return [*found, variable.get(), current().request_id]

    answer = await ask(app, headers={"X-Request-ID": "r-1"})
    seen, first, thread, again, second = answer.json()
    assert seen == again == "dependency"
    assert first == second == ("r-1" if dress is stacked else None)
    assert thread != "MainThread"


async def test_websockets_talk(dress: Dress):
    app = dress(FastAPI())

    @app.websocket("/ws")
    async def echo(websocket: WebSocket):
        await websocket.accept(subprotocol="chat")
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())

    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "hi"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    answer = await talk(app, scope_of(path="/ws", kind="websocket"), messages)
    accepted, sent = answer.messages
    assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "chat")
    assert sent["text"] == "HI"


async def test_a_websocket_client_that_goes_away_is_no_error(log):
    app = stacked(FastAPI())

    @app.websocket("/ws")
    async def read(websocket: WebSocket):
        await websocket.accept()
        await websocket.receive_text()

    messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}]
    answer = await talk(app, scope_of(path="/ws", kind="websocket"), messages)
    assert answer.error is None
    assert [record for record in log if record.levelname == "ERROR"] == []


async def test_lifespan_state_and_order(dress: Dress):
    order = []

    @asynccontextmanager
    async def lifespan(app):
        order.append("start")
        yield {"pool": "p"}
        order.append("stop")

    app = dress(FastAPI(lifespan=lifespan))

    @app.get("/")
    async def handler(request: Request):
        order.append("request")
        return request.state.pool

    async with alive(app) as state:
        assert (await ask(app, state=state)).json() == "p"
    assert order == ["start", "request", "stop"]


async def test_a_lifespan_that_fails_fails_the_start(dress: Dress):
    @asynccontextmanager
    async def lifespan(app):
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        async with alive(dress(FastAPI(lifespan=lifespan))):
            pass


async def test_cancelling_a_request_cancels_its_handler(dress: Dress):
    app, begun, cancelled = dress(FastAPI()), asyncio.Event(), []

    @app.get("/")
    async def handler():
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    task = asyncio.create_task(ask(app))
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (cancelled, task.cancelled()) == ([True], True)


async def test_dependencies_with_yield_see_the_error_and_end_before_the_response(dress: Dress):
    app, order = dress(FastAPI()), []

    async def unit():
        try:
            yield
        except ValueError:
            order.append("rollback")
            raise

    @app.get("/", dependencies=[Depends(unit)])
    async def handler():
        raise ValueError("no")

    answer = await ask(app)
    assert (answer.status, order) == (500, ["rollback"])


async def test_head_and_redirects_work(dress: Dress):
    app = dress(FastAPI())

    @app.get("/orders/")
    async def orders(): ...

    answer = await ask(app, path="/orders")
    assert (answer.status, answer.header("location")) == (307, "http://api.test/orders/")


def test_concurrent_requests_do_not_mix(serve):
    app = stacked(FastAPI())

    @app.get("/{n}")
    async def handler(n: int):
        await asyncio.sleep(0)
        return {"n": n, "id": current().request_id}

    server = serve(app)

    async def all_of_them():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return await asyncio.gather(
                *(client.get(f"/{n}", headers={"X-Request-ID": f"r-{n}"}) for n in range(200))
            )

    for n, answer in enumerate(asyncio.run(all_of_them())):
        assert answer.json() == {"n": n, "id": f"r-{n}"}
        assert answer.headers["x-request-id"] == f"r-{n}"


async def test_requests_leave_nothing_for_the_garbage_collector(dress: Dress, operations):
    app = dress(FastAPI())

    @app.get("/{n}")
    async def handler(n: int): ...

    await ask(app, path="/1")
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await ask(app, path="/1")
        found = gc.collect()
    finally:
        gc.enable()
    assert found < 20
