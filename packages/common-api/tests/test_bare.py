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
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

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


async def test_redirects_work(dress: Dress):
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


def full_app():
    """What Starlette and FastAPI can do, without anything that raises on purpose."""
    app, sub = FastAPI(), FastAPI()
    router = APIRouter(prefix="/router")

    class Item(BaseModel):
        name: str

    @app.get("/json")
    async def as_json(q: str = "-"):
        return {"q": q}

    @app.get("/sync")
    def sync():
        return {"sync": True}

    @app.post("/items", status_code=201)
    async def items(item: Item, response: Response):
        response.headers["Location"] = "/items/1"
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return item

    @app.post("/raw")
    async def raw(request: Request):
        return Response(b"|".join([part async for part in request.stream()]))

    @app.api_route("/any", methods=["HEAD", "OPTIONS", "PATCH", "TRACE"])
    async def every(request: Request):
        return Response(headers={"X-Method": request.method})

    @app.get("/empty", status_code=204)
    async def empty(): ...

    @app.get("/redirect")
    async def redirect():
        return RedirectResponse("/json", 303)

    @app.get("/stream")
    async def stream():
        return StreamingResponse(iter(["a", "b"]), media_type="text/plain")

    @app.get("/events", response_class=EventSourceResponse)
    async def events():
        yield {"n": 1}

    @app.get("/html", response_class=HTMLResponse)
    async def html():
        return "<p>hi"

    @app.api_route("/file", methods=["GET", "HEAD"])
    async def file():
        return FileResponse(__file__, media_type="text/plain")

    @app.get("/where")
    async def where(request: Request):
        return [
            str(request.url),
            (request.client or [None])[0],
            request.cookies,
            request.scope["root_path"],
        ]

    @router.get("/{n}")
    async def routed(n: int):
        return n

    @sub.get("/{path:path}")
    async def mounted(path: str, request: Request):
        return [path, request.scope["root_path"], str(request.url_for("mounted", path="x"))]

    app.include_router(router)
    app.mount("/sub", sub)
    app.mount("/asgi", PlainTextResponse("plain"))
    return app


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/json"},
        {"path": "/json?q=%C3%A4%20b"},
        {"path": "/sync"},
        {"path": "/items", "method": "POST", "json_body": {"name": "x"}},
        {"path": "/raw", "method": "POST", "body": b"abc"},
        {"path": "/raw", "method": "POST"},
        {"path": "/any", "method": "HEAD"},
        {"path": "/any", "method": "OPTIONS"},
        {"path": "/any", "method": "PATCH"},
        {"path": "/any", "method": "TRACE"},
        {"path": "/empty"},
        {"path": "/redirect"},
        {"path": "/json/"},
        {"path": "/stream"},
        {"path": "/events"},
        {"path": "/html"},
        {"path": "/file"},
        {"path": "/file", "headers": {"Range": "bytes=0-9"}},
        {"path": "/file", "method": "HEAD"},
        {"path": "/where", "headers": {"Cookie": "a=1"}},
        {"path": "/prefix/where", "root_path": "/prefix"},
        {"path": "/router/7"},
        {"path": "/sub/a/b"},
        {"path": "/prefix/sub/a", "root_path": "/prefix"},
        {"path": "/asgi/x"},
        {"path": "/docs"},
    ],
    ids=lambda each: f"{each.get('method', 'GET')} {each['path']}",
)
async def test_answers_are_those_of_the_bare_application(request_: dict[str, Any]):
    request_ = {"method": "GET", **request_}
    one, two = [await ask(dress(full_app()), **request_) for dress in (bare, stacked)]
    assert (one.error, two.error) == (None, None)
    assert (two.status, two.body) == (one.status, one.body)

    def shape(answer):
        return [(m["type"], m.get("body"), m.get("more_body", False)) for m in answer.messages]

    assert shape(two) == shape(one)
    changing = {b"date", b"etag", b"last-modified"}
    given = [pair for pair in one.headers if pair[0] not in changing]
    assert [pair for pair in two.headers if pair in given] == given
    assert {name for name, _ in two.headers} - {name for name, _ in one.headers} == ADDED - (
        {b"content-security-policy"}
        if b"html" in dict(one.headers).get(b"content-type", b"")
        else set()
    )


ADDED = {
    b"content-security-policy", b"cross-origin-resource-policy", b"referrer-policy",
    b"traceparent", b"x-content-type-options", b"x-correlation-id", b"x-frame-options",
    b"x-request-id", b"x-service-name", b"x-trace-id",
}  # fmt: skip


def socket_app():
    app, sub = FastAPI(), FastAPI()

    @app.websocket("/echo")
    @sub.websocket("/echo")
    async def echo(websocket: WebSocket):
        await websocket.accept("chat", headers=[(b"x-mine", b"1")])
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await websocket.send_bytes(await websocket.receive_bytes())

    @app.websocket("/close")
    async def close(websocket: WebSocket):
        await websocket.accept()
        await websocket.close(4001, "enough")

    @app.websocket("/denied")
    async def denied(websocket: WebSocket):
        await websocket.send_denial_response(PlainTextResponse("no", 402))

    app.mount("/sub", sub)
    return app


@pytest.mark.parametrize("path", ["/echo", "/sub/echo", "/close", "/denied"])
async def test_websockets_are_those_of_the_bare_application(path):
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "bytes": b"1"},
        {"type": "websocket.receive", "bytes": b"2"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    scope = scope_of(path=path, kind="websocket")
    one, two = [await talk(dress(socket_app()), dict(scope), messages) for dress in (bare, stacked)]
    assert (one.error, two.error) == (None, None)
    given = one.headers
    assert [pair for pair in two.headers if pair in given] == given
    assert {name for name, _ in two.headers} - {name for name, _ in given} == {
        b"traceparent", b"x-correlation-id", b"x-request-id", b"x-service-name", b"x-trace-id",
    }  # fmt: skip
    for message in (one.messages[0], two.messages[0]):
        del message["headers"]
    assert two.messages == one.messages


async def test_context_variables_of_dependencies_that_yield(dress: Dress):
    app, order = dress(FastAPI()), []

    async def outer():
        variable.set("outer")
        yield
        order.append(("outer ends", variable.get()))

    def inner(_: None = Depends(outer)):
        order.append(("inner", variable.get()))
        yield
        order.append(("inner ends", variable.get()))

    @app.get("/", dependencies=[Depends(inner)])
    async def handler(tasks: BackgroundTasks):
        tasks.add_task(lambda: order.append(("background", variable.get())))
        return StreamingResponse(iter([variable.get()]))

    answer = await ask(app)
    assert answer.body == b"outer"
    assert order[0] == ("inner", "outer")
    assert set(order) >= {("inner ends", "outer"), ("outer ends", "outer")}


async def test_a_cancelled_stream_ends_its_generator_and_its_dependencies(dress: Dress):
    app, begun, order = dress(FastAPI()), asyncio.Event(), []

    async def unit():
        try:
            yield
        finally:
            order.append("unit")

    @app.get("/", dependencies=[Depends(unit)])
    async def stream():
        async def parts():
            try:
                yield b"x"
                begun.set()
                await asyncio.Event().wait()
            finally:
                order.append("generator")

        return StreamingResponse(parts())

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message): ...

    task = asyncio.create_task(app(scope_of(), receive, send))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(order) == ["generator", "unit"]


async def test_a_handler_can_see_that_its_client_is_gone(dress: Dress):
    app, seen = dress(FastAPI()), []

    @app.post("/")
    async def handler(request: Request):
        await request.body()
        seen.append(await request.is_disconnected())

    messages = [{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}]
    headers = [(b"content-length", b"1")]
    await talk(app, scope_of("POST", headers=headers), messages)
    assert seen == [True]


async def test_a_lifespan_that_fails_at_its_end_says_so(dress: Dress):
    @asynccontextmanager
    async def lifespan(app):
        yield
        raise OSError("not closed")

    with pytest.raises(OSError, match="not closed"):
        async with alive(dress(FastAPI(lifespan=lifespan))):
            pass


async def test_a_failure_after_the_start_is_raised_for_the_server_to_see(dress: Dress):
    app = dress(FastAPI())

    @app.get("/")
    async def half():
        async def parts():
            yield b"x"
            raise LookupError("half")

        return StreamingResponse(parts())

    answer = await ask(app)
    assert isinstance(answer.error, LookupError)
    assert [m["type"] for m in answer.messages] == ["http.response.start", "http.response.body"]
    assert answer.messages[-1]["more_body"]
