"""One request id in header, body and log, on every path, on a real uvicorn."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass

import pytest
from api_drivers import Answer, read_all, scope_of, talk
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from common.api import Check, Health, Limits, install
from common.context import current
from common.errors import ConflictError, DatabaseError, NotFoundError

logger = logging.getLogger("tests.handler")
OURS, HANDLERS = "common.api", "tests.handler"


class SoldOutError(ConflictError):
    code = "SOLD_OUT"


def seen():
    logger.info("handling")
    return {"id": current().request_id}


class Guard:
    """A plain ASGI middleware that refuses two paths."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"].startswith("/guarded"):
            raise SoldOutError if scope["path"] == "/guarded" else KeyError("secret")
        await self.app(scope, receive, send)


async def base_guard(request, call_next):
    raise SoldOutError


async def halves(error):
    yield json.dumps(seen())
    raise error


async def refuse_health():
    raise OSError("down")


def make_app(style):
    app, router, sub, based = FastAPI(), APIRouter(prefix="/items"), FastAPI(), FastAPI()
    health = Health(ready=[Check("db", refuse_health)])
    install(app, service="orders", errors=style, health=health, limits=Limits(max_body=100))
    app.add_middleware(Guard)
    # Not around all: it makes whole answers of those that break off, installed or not.
    based.add_middleware(BaseHTTPMiddleware, dispatch=base_guard)

    def refuse():
        raise SoldOutError

    async def cancelled():
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    async def after(error):
        raise error

    app.add_api_route("/ok", seen)
    app.add_api_route("/handler", refuse)
    app.add_api_route("/dependency", seen, dependencies=[Depends(refuse)])
    app.add_api_route("/cancelled", cancelled)
    router.add_api_route("/{item_id}", lambda item_id: seen())
    router.add_api_route("/{item_id}/sold", refuse)
    sub.add_api_route("/items/{n}", lambda n: seen())
    sub.add_api_route("/sold", refuse)

    @app.post("/typed")
    async def typed(body: dict[str, int]): ...

    @app.get("/crash")
    @sub.get("/crash")
    async def crash():
        raise KeyError("secret-table-name")

    @app.get("/down")
    async def down():
        raise DatabaseError("down")

    @app.get("/http-error")
    async def http_error():
        raise HTTPException(410)

    @app.get("/late")
    async def late():
        await asyncio.Event().wait()

    @app.get("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(after, SoldOutError())
        return seen()

    @app.get("/background-crash")
    async def background_crash():
        return JSONResponse(seen(), background=BackgroundTask(after, KeyError("secret")))

    @app.get("/half")
    @sub.get("/half")
    async def half():
        return StreamingResponse(halves(SoldOutError()))

    @app.get("/half-crash")
    @sub.get("/half-crash")
    async def half_crash():
        return StreamingResponse(halves(KeyError("secret")))

    @app.get("/stream")
    async def stream():
        async def parts():
            yield json.dumps(seen())

        return StreamingResponse(parts())

    @app.get("/events", response_class=EventSourceResponse)
    async def events():
        yield seen()

    @app.get("/events-crash", response_class=EventSourceResponse)
    async def events_crash():
        yield seen()
        for _ in range(100):  # FastAPI forgets what it has not sent yet
            await asyncio.sleep(0)
        raise KeyError("secret")

    @app.get("/endless", response_class=EventSourceResponse)
    async def endless():
        try:
            while True:
                yield {"id": current().request_id}
                await asyncio.sleep(0.01)
        finally:
            logger.info("the client went away")

    @app.post("/upload")
    async def upload(request: Request):
        logger.info("uploading")
        return len(await request.body())

    async def fail(request):
        raise NotFoundError

    async def crash_plainly(request):
        raise KeyError("secret")

    @app.websocket("/ws")
    @sub.websocket("/ws")
    async def ws(websocket: WebSocket, crash: bool = False):
        await websocket.accept()
        await websocket.send_json(seen())
        if crash:
            raise KeyError("secret")
        await websocket.close()

    @app.websocket("/ws-refused")
    async def ws_refused(websocket: WebSocket):
        raise SoldOutError

    @app.websocket("/ws-silent")
    async def ws_silent(websocket: WebSocket): ...

    app.include_router(router, prefix="/v1")
    app.mount("/sub", sub)
    app.mount("/based", based)
    app.mount("/plain", Starlette(routes=[Route("/fail", fail), Route("/crash", crash_plainly)]))
    return app


@dataclass(frozen=True)
class Row:
    """A request, and what is to be seen of it.

    Attributes:
        logged: Whose lines are in the log.
        broken: Whether the response is broken off.
        failed: Whether there is one line of an error.
    """

    path: str
    status: int = 200
    logged: tuple[str, ...] = (OURS,)
    method: str = "GET"
    head: bytes = b""
    broken: bool = False
    failed: bool = False


OK = (HANDLERS,)
BOTH = (HANDLERS, OURS)
ROWS = {
    "success": Row("/ok", 200, OK),
    "404": Row("/nowhere", 404),
    "405": Row("/ok", 405, method="DELETE"),
    "422": Row("/typed", 422, method="POST"),
    "413": Row("/typed", 413, method="POST", head=b"Content-Length: 101\r\n"),
    "HTTPException": Row("/http-error", 410),
    "AppError in a dependency": Row("/dependency", 409),
    "AppError in middleware": Row("/guarded", 409),
    "AppError in Starlette's base middleware": Row("/based/x", 409),
    "AppError in a handler": Row("/handler", 409),
    "AppError of a 503": Row("/down", 503, failed=True),
    "AppError in a background task": Row("/background", 200, BOTH, failed=True),
    "crash in a background task": Row("/background-crash", 200, BOTH, failed=True),
    "unhandled": Row("/crash", 500, failed=True),
    "unhandled in middleware": Row("/guarded/crash", 500, failed=True),
    "a cancellation nobody asked for": Row("/cancelled", 500, failed=True),
    "deadline": Row("/late", 504, head=b"X-Request-Timeout: 0.02\r\n", failed=True),
    "deadline that has passed": Row("/ok", 504, head=b"X-Request-Timeout: 0\r\n", failed=True),
    "AppError after the start": Row("/half", 200, BOTH, broken=True, failed=True),
    "crash after the start": Row("/half-crash", 200, BOTH, broken=True, failed=True),
    "stream": Row("/stream", 200, OK),
    "server-sent events": Row("/events", 200, OK),
    # FastAPI ends them as if they were whole; browsers ask again in any case.
    "server-sent events that crash": Row("/events-crash", 200, BOTH, failed=True),
    "mounted": Row("/sub/items/1", 200, OK),
    "mounted, 404": Row("/sub/nowhere", 404),
    "mounted, AppError": Row("/sub/sold", 409),
    "mounted, unhandled": Row("/sub/crash", 500, failed=True),
    "mounted, AppError after the start": Row("/sub/half", 200, BOTH, broken=True, failed=True),
    "mounted, crash after the start": Row("/sub/half-crash", 200, BOTH, broken=True, failed=True),
    "mounted Starlette": Row("/plain/fail", 404),
    "mounted Starlette, unhandled": Row("/plain/crash", 500, failed=True),
    "included": Row("/v1/items/1", 200, OK),
    "included, AppError": Row("/v1/items/1/sold", 409),
    "not ready": Row("/readyz", 503),
}


def until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def answer_of(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = [(name, value.strip()) for name, _, value in (x.partition(b":") for x in lines)]
    start = {"type": "http.response.start", "status": int(first.split()[1]), "headers": headers}
    return Answer([start, {"type": "http.response.body", "body": body}])


def lines_of(log, names=BOTH):
    return [record for record in log if record.name in names]


def check_log(log, logged, request_id, *, failed):
    records = lines_of(log)
    assert {record.name for record in records} == set(logged)
    assert {record.id_in_context for record in records} <= {request_id}
    errors = [record for record in records if record.levelno >= logging.ERROR]
    assert len(errors) == failed
    for record in errors:
        assert request_id in record.getMessage()
        assert record.error_id in record.getMessage()
        outage = "request failed: 503" in record.getMessage()
        outage = outage or "request failed: 504" in record.getMessage()
        assert bool(record.exc_info) is not outage


@pytest.mark.parametrize("style", ["envelope", "problem"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_one_id_in_header_body_and_log(row: Row, style, serve, operations, log):
    server = serve(make_app(style))
    head = row.head if b"Content-Length" in row.head else row.head + b"Content-Length: 0\r\n"
    request = f"{row.method} {row.path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()
    raw = server.raw(request + b"X-Request-ID: r-1\r\n" + head + b"\r\n")
    answer = answer_of(raw)

    assert answer.status == row.status
    assert answer.header("x-request-id") == answer.header("x-correlation-id") == "r-1"
    assert answer.header("traceparent").startswith(f"00-{answer.header('x-trace-id')}-")
    if row.status >= 400 and row.path != "/readyz":
        shown = answer.json()
        assert (shown["meta"] if style == "envelope" else shown)["request_id"] == "r-1"
    elif row.path != "/readyz":
        assert b'{"id":"r-1"}' in answer.body.replace(b" ", b"")
    if answer.header("transfer-encoding") == "chunked":
        assert raw.endswith(b"0\r\n\r\n") is not row.broken

    until(lambda: operations.server and {r.name for r in lines_of(log)} >= set(row.logged))
    check_log(log, row.logged, "r-1", failed=row.failed)
    if row.status >= 500 and row.path != "/readyz":
        shown = answer.json()
        error_id = (shown["error"] if style == "envelope" else shown)["error_id"]
        assert [r.error_id for r in lines_of(log) if r.levelno >= logging.ERROR] == [error_id]
    [op] = operations.server
    assert op.context.request_id == "r-1"
    assert op.outcome == ("error" if row.status >= 500 or row.broken else "ok")
    assert b"secret" not in raw


def test_a_client_that_goes_away_from_a_stream(serve, operations, log):
    server = serve(make_app("envelope"))
    with server.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\nX-Request-ID: r-1\r\n\r\n")
        raw = b""
        while b'{"id":"r-1"}' not in raw.replace(b" ", b""):
            raw += sock.recv(65536)
    assert answer_of(raw).header("x-request-id") == "r-1"
    until(lambda: operations.server)
    check_log(log, OK, "r-1", failed=False)
    assert (operations.server[0].outcome, operations.server[0].name) == (
        "cancelled",
        "GET /endless",
    )


def test_a_client_that_goes_away_from_its_upload(serve, operations, log):
    server = serve(make_app("envelope"))
    with server.connect() as sock:
        sock.sendall(
            b"POST /upload HTTP/1.1\r\nHost: a\r\nX-Request-ID: r-1\r\nContent-Length: 9\r\n\r\n1"
        )
        until(lambda: lines_of(log))
    until(lambda: operations.server)
    check_log(log, OK, "r-1", failed=False)
    assert operations.server[0].outcome == "cancelled"


@pytest.mark.parametrize(
    ("path", "status", "logged", "failed"),
    [
        ("/ws", None, OK, False),
        ("/ws?crash=1", None, BOTH, True),
        ("/sub/ws?crash=1", None, BOTH, True),
        ("/ws-refused", 409, (OURS,), False),
        ("/ws-silent", 500, (OURS,), True),
        ("/sub/nowhere", 404, (OURS,), False),
    ],
)
async def test_websockets(path, status, logged, failed, log):
    path, _, query = path.partition("?")
    headers = [(b"x-request-id", b"r-1")]
    scope = scope_of(path=path, kind="websocket", headers=headers, query=query.encode())
    answer = await talk(make_app("envelope"), scope, [{"type": "websocket.connect"}])

    assert answer.error is None
    assert answer.header("x-request-id") == "r-1"
    if status is None:
        assert answer.start["type"] == "websocket.accept"
        assert json.loads(answer.messages[1]["text"]) == {"id": "r-1"}
    else:
        assert answer.status == status
        if answer.body:
            assert answer.json()["meta"]["request_id"] == "r-1"
    check_log(log, logged, "r-1", failed=failed)


@pytest.mark.parametrize(
    ("path", "status", "logged", "failed"),
    [
        ("/ws", None, OK, False),
        ("/ws?crash=1", None, BOTH, True),
        ("/sub/ws?crash=1", None, BOTH, True),
        ("/ws-refused", 409, (OURS,), False),
        ("/ws-silent", 500, (OURS,), True),
        ("/nowhere", 404, (OURS,), False),
    ],
)
async def test_websockets_on_a_real_server(path, status, logged, failed, serve, operations, log):
    websockets = pytest.importorskip("websockets", reason="uvicorn needs it for websockets")
    server = serve(make_app("envelope"))
    url = server.url.replace("http:", "ws:") + path
    headers = {"X-Request-ID": "r-1"}
    if status is None:
        async with websockets.connect(url, additional_headers=headers) as socket:
            assert socket.response.headers.get_all("X-Request-ID") == ["r-1"]
            assert json.loads(await socket.recv()) == {"id": "r-1"}
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == (1011 if failed else 1000)
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=headers)
        response = refused.value.response
        assert response.status_code == status
        assert response.headers.get_all("X-Request-ID") == ["r-1"]
        if response.body:
            assert json.loads(bytes(response.body))["meta"]["request_id"] == "r-1"
    until(lambda: operations.server)
    check_log(log, logged, "r-1", failed=failed)


def test_requests_on_one_connection_keep_their_own_ids(serve):
    server = serve(make_app("envelope"))
    with server.connect() as sock:
        for number in range(3):
            last = b"Connection: close\r\n" if number == 2 else b""
            sock.sendall(
                b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: r-%d\r\n%b\r\n" % (number, last)
            )
        raw = read_all(sock)
    assert [line for line in raw.lower().split(b"\r\n") if line.startswith(b"x-request-id")] == [
        b"x-request-id: r-%d" % number for number in range(3)
    ]
    for number in range(3):
        assert b'{"id":"r-%d"}' % number in raw
