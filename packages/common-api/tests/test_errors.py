"""Every exception its answer."""

import asyncio
import json
import logging
from typing import Any, cast

import httpx
import pytest
from api_drivers import ask, scope_of, talk
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, field_validator
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from common.api import ErrorMiddleware, ErrorRenderer, error_response, install
from common.context import current
from common.errors import (
    AppError,
    ConflictError,
    DatabaseError,
    InternalError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
)

logger = logging.getLogger("tests.handler")


class OutOfStockError(ConflictError):
    code = "OUT_OF_STOCK"
    item: str | None = None


class Item(BaseModel):
    name: str
    price: int
    card: str = ""

    @field_validator("card")
    @classmethod
    def _check(cls, value):
        if value == "4111111111111111":
            raise ValueError(f"{value} is a test card")
        return value


class Guard:
    """A plain ASGI middleware that refuses one path."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/guarded":
            raise OutOfStockError("guarded", item="g")
        await self.app(scope, receive, send)


def make_app(**options):
    app = FastAPI()
    install(app, service="orders", **options)
    app.add_middleware(Guard)
    sub = FastAPI()
    router = APIRouter(prefix="/items")

    def refuse():
        raise OutOfStockError("sold out", item="book")

    @app.get("/ok")
    async def ok():
        logger.info("handling")
        return {"id": current().request_id}

    @app.get("/sync")
    def sync():
        logger.info("handling")
        return {"id": current().request_id}

    @app.post("/items")
    async def create(item: Item):
        return item

    @app.get("/handler")
    async def handler():
        refuse()

    @app.get("/dependency", dependencies=[Depends(refuse)])
    async def dependency(): ...

    @app.get("/crash")
    async def crash():
        raise KeyError("secret-table-name")

    @app.get("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(refuse)
        return {"id": current().request_id}

    @app.get("/half")
    async def half():
        async def parts():
            yield b"half"
            raise OutOfStockError("in the middle")

        return StreamingResponse(parts())

    @app.get("/stream")
    async def stream():
        async def parts():
            yield json.dumps({"id": current().request_id}).encode()

        return StreamingResponse(parts())

    @app.get("/events", response_class=EventSourceResponse)
    async def events():
        yield {"id": current().request_id}

    @app.get("/http-error")
    async def http_error():
        raise HTTPException(410, {"moved": "x"}, headers={"X-Why": "because"})

    @router.get("/{item_id}")
    async def included(item_id: int):
        return {"id": current().request_id}

    @sub.get("/deep/{name}")
    async def deep(name: str):
        raise NotFoundError("no such thing", resource=name)

    @sub.get("/crash")
    async def deep_crash():
        raise KeyError("secret-table-name")

    @app.websocket("/ws")
    async def ws(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_json({"id": current().request_id})
        await websocket.close()

    app.include_router(router, prefix="/v1")
    app.mount("/sub", sub)
    return app


# Path, status, whether the body names the id, route of the operation
PATHS = [
    ("GET", "/ok", 200, "/ok"),
    ("GET", "/sync", 200, "/sync"),
    ("GET", "/nowhere", 404, "unmatched"),
    ("DELETE", "/ok", 405, "/ok"),
    ("POST", "/items", 422, "/items"),
    ("GET", "/handler", 409, "/handler"),
    ("GET", "/dependency", 409, "/dependency"),
    ("GET", "/guarded", 409, "unmatched"),
    ("GET", "/background", 200, "/background"),
    ("GET", "/crash", 500, "/crash"),
    ("GET", "/stream", 200, "/stream"),
    ("GET", "/events", 200, "/events"),
    ("GET", "/http-error", 410, "/http-error"),
    ("GET", "/v1/items/7", 200, "/v1/items/{item_id}"),
    ("GET", "/v1/items/x", 422, "/v1/items/{item_id}"),
    ("GET", "/sub/deep/x", 404, "/sub/deep/{name}"),
    ("GET", "/sub/nowhere", 404, "/sub/{path}"),
    ("GET", "/sub/crash", 500, "/sub/crash"),
    ("GET", "/livez", 200, "/livez"),
    ("GET", "/openapi.json", 200, "/openapi.json"),
]


@pytest.mark.parametrize("style", ["envelope", "problem"])
@pytest.mark.parametrize(("method", "path", "status", "route"), PATHS)
async def test_one_id_stands_in_header_body_and_operation(
    method, path, status, route, style, operations
):
    answer = await ask(
        make_app(errors=style), method, path, headers={"X-Request-ID": "r-1"}, body=b"{}"
    )

    assert answer.error is None
    assert answer.status == status
    assert answer.header("x-request-id") == answer.header("x-correlation-id") == "r-1"
    assert answer.header("x-service-name") == "orders"
    assert answer.header("traceparent").startswith(f"00-{answer.header('x-trace-id')}-")
    if status >= 400:
        shown = answer.json()
        assert (shown["meta"] if style == "envelope" else shown)["request_id"] == "r-1"
    elif path not in ("/livez", "/openapi.json"):
        assert b'"r-1"' in answer.body
    [op] = operations.server
    assert (op.name, op.context.request_id) == (f"{method} {route}", "r-1")
    assert op.attributes["http.response.status_code"] == status
    assert op.outcome == ("error" if status >= 500 else "ok")


async def test_an_answer_is_as_its_error_says():
    answer = await ask(make_app(), path="/handler")
    assert answer.json()["error"] == {
        "code": "OUT_OF_STOCK",
        "message": "sold out",
        "details": {"item": "book"},
    }
    assert set(answer.json()) == {"data", "error", "meta", "pagination", "links"}
    problem = await ask(
        make_app(errors="problem", problem_types="https://e.test/"), path="/handler"
    )
    assert problem.header("content-type") == "application/problem+json"
    shown = problem.json()
    assert (shown["type"], shown["title"]) == ("https://e.test/out-of-stock", "Conflict")
    assert (shown["status"], shown["detail"], shown["code"]) == (409, "sold out", "OUT_OF_STOCK")
    assert shown["details"] == {"item": "book"}


async def test_a_crash_shows_nothing_but_an_id_that_the_log_has(log):
    for path in ("/crash", "/sub/crash"):
        log.clear()
        answer = await ask(make_app(), path=path)
        error_id = answer.json()["error"]["error_id"]
        assert b"secret" not in answer.body
        assert b"KeyError" not in answer.body
        [record] = [r for r in log if r.levelno == logging.ERROR]
        assert error_id in record.getMessage()
        assert record.error_id == error_id
        assert record.exc_info[0] is KeyError


async def test_an_internal_error_keeps_its_own_id_and_hides_its_message(log):
    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def fail():
        raise InternalError("column pasword", error_id="e-7")

    answer = await ask(app)
    assert answer.json()["error"]["error_id"] == "e-7"
    assert b"pasword" not in answer.body
    assert any("e-7" in record.getMessage() for record in log)


async def test_validation_names_fields_and_never_what_was_submitted():
    body = {"name": 5, "price": "s3cret", "card": "4111111111111111", "x": 1}
    answer = await ask(make_app(), "POST", "/items", json_body=body)
    shown = answer.json()["error"]
    assert shown["code"] == "VALIDATION_ERROR"
    assert {f["field"] for f in shown["details"]["fields"]} == {
        "body.name",
        "body.price",
        "body.card",
    }
    assert b"s3cret" not in answer.body
    assert b"4111" not in answer.body


async def test_only_so_many_fields_are_named():
    app = FastAPI()
    install(app, service="orders")

    @app.post("/")
    async def post(body: list[int]): ...

    answer = await ask(app, "POST", json_body=["x"] * 1000)
    assert len(answer.json()["error"]["details"]["fields"]) == 100


async def test_a_body_that_is_no_json_is_called_that():
    headers = {"content-type": "application/json"}
    answer = await ask(make_app(), "POST", "/items", body=b'{"s3cret"', headers=headers)
    [found] = answer.json()["error"]["details"]["fields"]
    assert (answer.status, found["message"]) == (422, "The body is no JSON")
    assert b"s3cret" not in answer.body


async def test_names_that_came_from_outside_are_not_shown_either():
    app = FastAPI()
    install(app, service="orders")

    class Strict(BaseModel, extra="forbid"):
        scores: dict[str, int] = {}

    @app.post("/")
    async def post(body: Strict): ...

    body = {"4111 1111 1111 1111": 1, "scores": {"p@ss word": "x"}}
    answer = await ask(app, "POST", json_body=body)
    fields = [f["field"] for f in answer.json()["error"]["details"]["fields"]]
    assert sorted(fields) == ["body.*", "body.scores.*"]
    assert b"4111" not in answer.body
    assert b"p@ss" not in answer.body


async def test_a_wrong_union_tag_is_not_quoted():
    from typing import Annotated, Literal

    from pydantic import Field

    class A(BaseModel):
        kind: Literal["a"]

    class B(BaseModel):
        kind: Literal["b"]

    app = FastAPI()
    install(app, service="orders")

    @app.post("/")
    async def post(body: Annotated[A | B, Field(discriminator="kind")]): ...

    answer = await ask(app, "POST", json_body={"kind": "s3cret"})
    assert answer.status == 422
    assert b"s3cret" not in answer.body


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (RateLimitedError(retry_after=1.2), 429, {"retry-after": "2"}),
        (DatabaseError("down", retry_after=0.0), 503, {"retry-after": "0"}),
        (UnauthorizedError(), 401, {"www-authenticate": "Bearer"}),
        (
            HTTPException(401, headers={"WWW-Authenticate": "Basic"}),
            401,
            {"www-authenticate": "Basic"},
        ),
        (HTTPException(410, {"a": 1}, headers={"X-Why": "b\r\nX-Evil: 1"}), 410, {"x-why": None}),
        (AppError("odd", status=200), 500, {}),
    ],
)
async def test_headers_that_an_error_needs(error, status, headers):
    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def fail():
        raise error

    answer = await ask(app)
    assert answer.status == status
    assert {name: answer.header(name) for name in headers} == headers
    assert answer.header("cache-control") == "no-store"


async def test_405_names_the_methods_of_all_routes_of_the_path():
    app = make_app()
    router, sub = APIRouter(prefix="/things"), FastAPI()
    for target in (router, sub):
        for method in ("GET", "POST", "PUT"):
            target.add_api_route("/{n}", lambda n: n, methods=[method])
    app.include_router(router)
    app.mount("/mounted", sub)
    assert (await ask(app, "DELETE", "/ok")).header("allow") == "GET"
    assert (await ask(app, "DELETE", "/things/1")).header("allow") == "GET, POST, PUT"
    assert (await ask(app, "PWN", "/mounted/1")).header("allow") == "GET, POST, PUT"


async def test_a_304_has_no_body(log):
    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def same():
        raise HTTPException(304, headers={"ETag": '"7"'})

    answer = await ask(app)
    assert (answer.status, answer.body, answer.header("etag")) == (304, b"", '"7"')
    assert [record for record in log if record.name == "common.api"] == []  # nothing was refused


async def test_a_failure_in_the_middle_breaks_the_response_off(log, operations):
    answer = await ask(make_app(), path="/half")
    assert isinstance(answer.error, OutOfStockError)
    assert [m["type"] for m in answer.messages].count("http.response.start") == 1
    assert answer.messages[-1].get("more_body") is True
    [record] = [r for r in log if r.name == "common.api"]
    assert record.levelno == logging.ERROR
    start = "request failed in the middle of the response: OUT_OF_STOCK, GET /half, error_id="
    assert record.getMessage().startswith(start)  # and no status, since the one sent was 200
    assert operations.server[0].outcome == "error"


def test_a_client_sees_that_a_response_was_broken_off(serve):
    server = serve(make_app())
    with httpx.Client(timeout=60) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(server.url + "/half")
        assert client.get(server.url + "/ok").status_code == 200


async def test_a_background_failure_is_logged_and_reported(log, operations):
    answer = await ask(make_app(), path="/background")
    assert (answer.status, answer.error) == (200, None)
    [op] = operations.server
    assert op.outcome == "ok"
    [background] = [op for op in operations.ended if op.kind == "internal"]
    assert (background.outcome, background.error_code) == ("error", "OUT_OF_STOCK")
    [record] = [r for r in log if r.name == "common.api"]
    assert (record.levelno, record.error_code) == (logging.ERROR, "OUT_OF_STOCK")
    start = "request failed after the response: OUT_OF_STOCK, GET /background, error_id="
    assert record.getMessage().startswith(start)


async def test_a_background_failure_of_a_stream_does_not_make_its_request_one(operations):
    async def fail():
        raise KeyError

    async def parts():
        yield b"x"

    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def stream():
        return StreamingResponse(parts(), background=BackgroundTask(fail))

    assert (await ask(app)).error is None
    assert operations.server[0].outcome == "ok"


async def test_the_applications_own_handlers_stay():
    app = FastAPI()

    async def mine(request, error):
        return PlainTextResponse("mine", 418)

    app.add_exception_handler(NotFoundError, mine)
    install(app, service="orders")
    app.add_exception_handler(Exception, mine)

    @app.get("/missing")
    async def missing():
        raise NotFoundError

    @app.get("/crash")
    async def crash():
        raise KeyError

    for path in ("/missing", "/crash"):
        answer = await ask(app, path=path)
        assert (answer.status, answer.body) == (418, b"mine")
        assert answer.header("x-request-id")


async def test_mounted_starlette_apps_answer_alike():
    async def fail(request):
        raise OutOfStockError("x")

    app = FastAPI()
    install(app, service="orders")
    app.mount("/deep", Starlette(routes=[Route("/fail", fail)]))
    assert (await ask(app, path="/deep/fail")).json()["error"]["code"] == "OUT_OF_STOCK"
    assert (await ask(app, path="/deep/no")).json()["error"]["code"] == "NOT_FOUND"


WEBSOCKET = [{"type": "websocket.connect"}]


def ws_app():
    app = FastAPI()
    install(app, service="orders")

    @app.websocket("/refused")
    async def refused(websocket: WebSocket):
        raise UnauthorizedError

    @app.websocket("/later")
    async def later(websocket: WebSocket):
        await websocket.accept()
        raise OutOfStockError

    @app.websocket("/crash")
    async def crash(websocket: WebSocket):
        await websocket.accept()
        raise KeyError("secret")

    @app.websocket("/typed")
    async def typed(websocket: WebSocket, n: int):
        await websocket.accept()

    return app


async def test_websockets_carry_the_ids_in_the_handshake(operations):
    scope = scope_of(path="/ws", kind="websocket", headers=[(b"x-request-id", b"r-1")])
    answer = await talk(make_app(), scope, WEBSOCKET)
    assert answer.messages[0]["type"] == "websocket.accept"
    assert answer.header("x-request-id") == "r-1"
    assert json.loads(answer.messages[1]["text"]) == {"id": "r-1"}
    [op] = operations.server
    assert (op.name, op.outcome) == ("WS /ws", "ok")


@pytest.mark.parametrize(("path", "status"), [("/refused", 401), ("/nowhere", 404)])
async def test_a_denied_handshake_has_status_and_ids(path, status, operations):
    answer = await talk(ws_app(), scope_of(path=path, kind="websocket"), WEBSOCKET)
    assert answer.messages[0]["type"] == "websocket.http.response.start"
    assert answer.status == status
    assert answer.header("x-request-id") == operations.server[0].context.request_id
    assert answer.json()["meta"]["request_id"] == answer.header("x-request-id")
    assert operations.server[0].attributes["http.response.status_code"] == status


@pytest.mark.parametrize(
    ("path", "extensions", "code"),
    [
        ("/refused", {}, 1008),
        ("/later", {"websocket.http.response": {}}, 1008),
        ("/crash", {"websocket.http.response": {}}, 1011),
    ],
)
async def test_a_websocket_that_fails_is_closed(path, extensions, code, log):
    scope = scope_of(path=path, kind="websocket", extensions=extensions)
    answer = await talk(ws_app(), scope, WEBSOCKET)
    assert answer.error is None
    last = answer.messages[-1]
    assert (last["type"], last["code"]) == ("websocket.close", code)
    assert "secret" not in last["reason"]
    assert log


async def test_an_unknown_websocket_looks_like_an_unknown_path(log):
    app, sub = FastAPI(), FastAPI()
    install(app, service="orders", errors="problem")
    app.mount("/sub", sub)

    @app.exception_handler(StarletteHTTPException)
    async def mine(request, error):
        return PlainTextResponse(request.method, 418)  # a websocket has none

    for path, name in (("/nowhere", "WS unmatched"), ("/sub/nowhere", "WS /sub/{path}")):
        log.clear()
        answer = await talk(app, scope_of(path=path, kind="websocket"), WEBSOCKET)
        assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND")
        assert answer.header("content-type") == "application/problem+json"
        scope = scope_of(path=path, kind="websocket", extensions={})
        assert (await talk(app, scope, WEBSOCKET)).messages[-1]["type"] == "websocket.close"
        lines = [record.getMessage() for record in log if record.name == "common.api"]
        assert len(lines) == 2  # one for each
        assert all(f"request refused: 404 NOT_FOUND, {name}, " in line for line in lines)
    assert (await ask(app, path="/nowhere")).body == b"GET"


async def test_a_routers_own_answer_stays():
    async def mine(scope, receive, send):
        await send({"type": "websocket.close", "code": 4000})

    app = FastAPI()
    app.router.default = mine
    install(app, service="orders")
    scope = scope_of(path="/nowhere", kind="websocket", extensions={})
    assert (await talk(app, scope, WEBSOCKET)).messages[-1]["code"] == 4000


async def test_a_websocket_with_wrong_parameters_is_refused_without_quoting_them():
    scope = scope_of(path="/typed", kind="websocket", query=b"n=s3cret", extensions={})
    answer = await talk(ws_app(), scope, WEBSOCKET)
    assert answer.messages[-1]["code"] == 1008
    assert "s3cret" not in str(answer.messages)


async def test_the_middleware_stands_alone():
    async def app(scope, receive, send):
        raise OutOfStockError("x")

    answer = await ask(ErrorMiddleware(app, renderer=ErrorRenderer("problem")))
    assert (answer.status, answer.json()["code"]) == (409, "OUT_OF_STOCK")


async def test_one_error_in_a_group_is_that_error():
    async def app(scope, receive, send):
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [OutOfStockError("x")])])

    assert (await ask(ErrorMiddleware(app))).status == 409


async def test_codes_and_headers_that_are_none_do_no_harm(log):
    class OddError(HTTPException):
        code = "A\r\nFAKE LOG LINE"

    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def fail():
        raise OddError(418, headers={"X-Number": 7, "X Bad": "1"})  # type: ignore[dict-item]

    answer = await ask(app)
    assert (answer.status, answer.json()["error"]["code"]) == (418, "IM_A_TEAPOT")
    assert (answer.header("x-number"), answer.header("x bad")) == ("7", None)
    assert all("FAKE" not in record.getMessage() for record in log)


async def test_a_client_that_went_away_is_not_answered(operations, log):
    from starlette.requests import ClientDisconnect

    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def gone():
        raise ClientDisconnect

    answer = await ask(app)
    assert (answer.messages, answer.error) == ([], None)
    assert operations.server[0].outcome == "cancelled"
    assert "http.response.status_code" not in operations.server[0].attributes
    assert [record for record in log if record.levelname == "ERROR"] == []


async def test_a_mounted_app_that_answers_crashes_itself_is_logged_once(log, operations):
    async def mine(request, error):
        return PlainTextResponse("mine", 500)

    app, sub = FastAPI(), FastAPI(exception_handlers={Exception: mine})
    install(app, service="orders")
    app.mount("/sub", sub)

    @sub.get("/")
    async def crash():
        raise KeyError

    answer = await ask(app, path="/sub/")
    assert (answer.status, answer.body, answer.error) == (500, b"mine", None)
    assert [r.levelno for r in log if r.name == "common.api"] == [logging.ERROR]
    assert [op.kind for op in operations.ended] == ["http.server"]


async def test_texts_that_cannot_be_written_are_no_crash():
    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def fail():
        raise HTTPException(404, "no \ud800 here")

    answer = await ask(app)
    assert answer.status == 404
    assert answer.json()["error"]["message"].startswith("no ")


async def test_a_cancellation_of_the_request_itself_goes_through(log):
    begun = asyncio.Event()
    app = FastAPI()
    install(app, service="orders")

    @app.get("/")
    async def handler():
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(app))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [r for r in log if r.name == "common.api"] == []


@pytest.mark.parametrize("style", ["envelope", "problem"])
async def test_a_returned_error_looks_like_a_raised_one(style):
    app = FastAPI()
    types = "https://e.test/" if style == "problem" else None
    install(app, service="orders", errors=style, problem_types=types)

    @app.get("/returned")
    async def returned():
        response = error_response(OutOfStockError(item="book"))
        response.headers["X-Why"] = "because"
        return response

    @app.get("/raised")
    async def raised():
        raise OutOfStockError(item="book")

    one, two = [await ask(app, path=path) for path in ("/returned", "/raised")]
    for answer in (one, two):
        assert answer.header("content-length") == str(len(answer.body))
    assert one.header("content-type") == two.header("content-type")
    changing = ("meta", "request_id", "correlation_id")
    assert {k: v for k, v in one.json().items() if k not in changing} == {
        k: v for k, v in two.json().items() if k not in changing
    }
    assert (one.status, one.header("x-why")) == (409, "because")


def test_only_errors_of_ones_own_can_be_returned():
    with pytest.raises(TypeError, match="give an AppError"):
        error_response(cast("Any", ValueError("x")))
