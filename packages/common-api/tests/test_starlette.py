"""The parts without `install`: plain Starlette behaves under them as without them."""

import contextlib
from contextlib import asynccontextmanager

import pytest
from api_drivers import alive, ask, scope_of, talk
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from common.api import (
    DeadlineMiddleware,
    DecompressMiddleware,
    ErrorMiddleware,
    Health,
    IdempotencyMiddleware,
    Limits,
    LimitsMiddleware,
    ProbesMiddleware,
    RequestContextMiddleware,
    SecurityHeadersMiddleware,
    TrustedHostsMiddleware,
)

IDS = {b"x-request-id", b"x-correlation-id", b"traceparent", b"x-trace-id", b"x-service-name"}
SECURITY = {
    b"content-security-policy", b"cross-origin-resource-policy", b"referrer-policy",
    b"x-content-type-options", b"x-frame-options",
}  # fmt: skip
PARTS = {
    "context": (Middleware(RequestContextMiddleware, service="orders"), IDS),
    "security": (Middleware(SecurityHeadersMiddleware), SECURITY),
    "errors": (Middleware(ErrorMiddleware), set()),
    "probes": (Middleware(ProbesMiddleware, health=Health()), set()),
    "hosts": (Middleware(TrustedHostsMiddleware, hosts=["api.test"]), set()),
    "limits": (Middleware(LimitsMiddleware, limits=Limits()), set()),
    "decompress": (Middleware(DecompressMiddleware), set()),
    "deadline": (Middleware(DeadlineMiddleware, longest=60.0, default=60.0), set()),
    "idempotency": (Middleware(IdempotencyMiddleware), set()),
}
SETS = {name: ([part], added) for name, (part, added) in PARTS.items()} | {
    "all": ([part for part, _ in PARTS.values()], IDS | SECURITY)
}


def make(parts, order):
    async def as_json(request):
        return JSONResponse({"q": request.query_params.get("q"), "state": request.state.pool})

    async def echo(request):
        return Response(b"|".join([part async for part in request.stream()]))

    async def stream(request):
        return StreamingResponse(iter(["a", "b"]), media_type="text/plain")

    async def background(request):
        return PlainTextResponse("x", background=BackgroundTask(order.append, "background"))

    async def refused(request):
        raise HTTPException(418, "tea", headers={"X-Mine": "1"})

    async def where(request):
        return JSONResponse([str(request.url), request.scope["root_path"], request.path_params])

    def sync(request):
        return PlainTextResponse("sync")

    async def socket(websocket):
        await websocket.accept("chat", headers=[(b"x-mine", b"1")])
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await websocket.send_text((await websocket.receive_text()).upper())

    @asynccontextmanager
    async def lifespan(app):
        order.append("start")
        yield {"pool": "p"}
        order.append("stop")

    routes = [
        Route("/json", as_json),
        Route("/echo", echo, methods=["POST"]),
        Route("/stream", stream),
        Route("/background", background),
        Route("/refused", refused),
        Route("/redirect", lambda request: RedirectResponse("/json", 303)),
        Route("/sync", sync),
        WebSocketRoute("/ws", socket),
        Mount("/sub", routes=[Route("/{name}", where)]),
    ]
    return Starlette(routes=routes, middleware=parts, lifespan=lifespan)


REQUESTS = [
    ("GET", "/json?q=1", b""),
    ("HEAD", "/json", b""),
    ("POST", "/json", b""),
    ("POST", "/echo", b"abc"),
    ("POST", "/echo", b""),
    ("GET", "/stream", b""),
    ("GET", "/background", b""),
    ("GET", "/refused", b""),
    ("GET", "/redirect", b""),
    ("GET", "/sync", b""),
    ("GET", "/sub/x", b""),
    ("GET", "/sub/x/", b""),
    ("GET", "/none", b""),
]


async def conversation(parts):
    """All that an application says and does, from its start to its end."""
    order, answers = [], []
    app = make(parts, order)
    async with alive(app) as state:
        for method, path, body in REQUESTS:
            answers.append(await ask(app, method, path, body=body, state=dict(state)))
        messages = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "hi"},
            {"type": "websocket.disconnect", "code": 1000},
        ]
        scope = scope_of(path="/ws", kind="websocket", state=dict(state))
        answers.append(await talk(app, scope, messages))
    return order, answers


@pytest.mark.parametrize("name", SETS)
async def test_answers_are_those_of_plain_starlette(name):
    parts, added = SETS[name]
    (bare_order, bare), (order, dressed) = await conversation([]), await conversation(parts)
    assert order == bare_order == ["start", "background", "stop"]
    for one, two in zip(bare, dressed, strict=True):
        assert (one.error, two.error) == (None, None)
        assert [pair for pair in two.headers if pair in one.headers] == one.headers
        assert {n for n, _ in two.headers} - {n for n, _ in one.headers} == (
            added & IDS if two.start["type"] == "websocket.accept" else added
        )
        for answer in (one, two):
            del answer.start["headers"]
        assert two.messages == one.messages


async def test_an_error_that_nobody_handles_has_ids_and_a_body_without_install(caplog):
    async def fail(request):
        raise LookupError("inside")

    inner = Starlette(routes=[Route("/", fail)], middleware=[Middleware(ErrorMiddleware)])
    answer = await ask(RequestContextMiddleware(inner, service="orders"))
    assert answer.status == 500
    assert answer.json()["error"]["error_id"] in caplog.text
    assert "inside" not in answer.body.decode()
    assert answer.json()["meta"]["request_id"] == answer.header("x-request-id")
