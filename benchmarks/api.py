"""What the stack of common-api adds to a request, in process, beside what others add.

Every contender answers the same request: ASGI messages in, ASGI messages out, no server and no
client, which would only hide the difference. ``ids`` sends no ids, so that all must be made.
"""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

from benchmarks._harness import Bar, Group
from common.api import ErrorMiddleware, RequestContextMiddleware, install
from common.context import observe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/orders/7",
    "raw_path": b"/orders/7",
    "query_string": b"expand=lines",
    "root_path": "",
    "headers": [
        (b"host", b"api.example.com"),
        (b"user-agent", b"bench"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, deflate"),
    ],
    "client": ("203.0.113.7", 4711),
    "server": ("127.0.0.1", 8000),
}


class Line(BaseModel):
    sku: str
    quantity: int


class Order(BaseModel):
    id: int
    customer: str
    lines: list[Line]


def bare() -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def order(order_id: int, expand: str = "") -> Order:
        return Order(id=order_id, customer=expand, lines=[Line(sku="a", quantity=1)] * 3)

    return app


class Metrics:
    """Stands in for common-metrics: one count and one duration for each label set."""

    def __init__(self):
        self.counts: dict[tuple[object, ...], int] = {}
        self.seconds: dict[tuple[object, ...], float] = {}

    def on_start(self, op):
        pass

    def on_end(self, op):
        if op.kind == "http.server":
            key = (op.name, op.attributes.get("http.response.status_code"), op.outcome)
            self.counts[key] = self.counts.get(key, 0) + 1
            self.seconds[key] = self.seconds.get(key, 0.0) + (op.duration or 0.0)


class Sink(logging.Handler):
    """Formats and forgets: the line is paid for, the disk is not."""

    def emit(self, record):
        self.format(record)


access = logging.getLogger("benchmarks.access")
access.propagate = False
access.setLevel(logging.INFO)
access.addHandler(Sink())


class MetricsAndLog(Metrics):
    def on_end(self, op):
        super().on_end(op)
        if op.kind == "http.server":
            access.info(
                "%s %s %.6f %s",
                op.name,
                op.attributes.get("http.response.status_code"),
                op.duration,
                op.context.request_id,
            )


class Logged:
    """The least that writes an access log: what of it is the price of logging itself."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        status, started = None, time.perf_counter()

        async def sending(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self.app(scope, receive, sending)
        seconds = time.perf_counter() - started
        access.info("%s %s %.6f %s", scope["path"], status, seconds, None)


def logged() -> FastAPI:
    app = bare()
    app.add_middleware(Logged)
    return app


def parts() -> FastAPI:
    """Ids, trace, operation and errors: what the first bar speaks of."""
    app = bare()
    app.add_middleware(ErrorMiddleware)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: RequestContextMiddleware(build(), service="orders")
    return app


def whole() -> FastAPI:
    """All that `install` brings by default: also limits, security headers, probes, deadline."""
    app = bare()
    install(app, service="orders")
    return app


def three_base() -> FastAPI:
    """The usual three: ids, timing, errors."""
    app = bare()

    async def ids(request, call_next):
        request.state.request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        response = await call_next(request)
        response.headers["X-Request-ID"] = request.state.request_id
        return response

    async def timing(request, call_next):
        return await call_next(request)

    for dispatch in (ids, timing, timing):
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return app


def peers() -> FastAPI:
    app = bare()
    app.add_middleware(CorrelationIdMiddleware)
    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


def requests(app: FastAPI, observer: Metrics | None = None) -> Callable[[int], Any]:
    statuses: list[int] = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def run(number):
        statuses.clear()
        for _ in range(number):
            await app({**SCOPE, "headers": list(SCOPE["headers"]), "state": {}}, receive, send)
        assert statuses == [200] * number

    async def observed(number):
        if observer is None:
            await run(number)
        else:
            with observe(observer):
                await run(number)

    return observed


async def groups() -> AsyncIterator[Group]:
    contenders = {
        "bare FastAPI": requests(bare()),
        "bare FastAPI and an access log": requests(logged()),
        "ids, trace, metrics, errors": requests(parts(), Metrics()),
        "the same and an access log": requests(parts(), MetricsAndLog()),
        "install(), metrics": requests(whole(), Metrics()),
        "three BaseHTTPMiddleware": requests(three_base()),
        "asgi-correlation-id, instrumentator": requests(peers()),
    }
    yield Group(
        name="request",
        number=300,
        rounds=31,
        warmup=2,
        contenders=contenders,
        bars=[
            Bar(
                contender="ids, trace, metrics, errors",
                against="bare FastAPI",
                ratio=1.15,
                of="cpu",
            ),
            Bar(
                contender="the same and an access log", against="bare FastAPI", ratio=1.35, of="cpu"
            ),
        ],
    )
