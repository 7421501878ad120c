"""What stands in the log of a request that was refused or failed."""

import logging

import pytest
from api_drivers import ask, scope_of, talk
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket

from common.api import ErrorMiddleware, exception_handlers, install
from common.api._styles import ErrorRenderer
from common.errors import (
    AppError,
    ConflictError,
    DatabaseError,
    InternalError,
    NotFoundError,
    RequestTimeoutError,
    UpstreamServiceError,
)


async def lines(log, error, path="/orders/s3cret", **options):
    app, sub = FastAPI(), FastAPI()
    install(app, service="orders", **options)
    app.mount("/in/{tenant}", sub)

    @app.get("/orders/{order_id}")
    @sub.get("/orders/{order_id}")
    async def fail(order_id: str):
        raise error

    log.clear()
    answer = await ask(app, path=path, headers={"X-Request-ID": "r-1"})
    return answer, [record for record in log if record.name == "common.api"]


async def test_a_refusal_says_what_was_asked_for_and_why(log):
    _, [record] = await lines(log, NotFoundError("no such order", resource="order"))
    assert record.getMessage() == (
        "request refused: 404 NOT_FOUND, GET /orders/{order_id}, request_id=r-1: no such order"
    )
    assert (record.levelno, record.exc_info, record.error_code) == (logging.INFO, None, "NOT_FOUND")
    _, [record] = await lines(log, ConflictError, path="/in/t1/orders/s3cret")
    assert (
        "409 CONFLICT, GET /in/{tenant}/orders/{order_id}, request_id=r-1:" in record.getMessage()
    )
    _, [record] = await lines(log, ConflictError, path="/s3cret")
    assert "404 NOT_FOUND, GET unmatched, request_id=r-1: Not Found" in record.getMessage()


async def test_a_line_is_one_line_and_not_long(log):
    _, [record] = await lines(log, HTTPException(400, "no\r\nFAKE\x1b[31m\u202e" + "x" * 10_000))
    assert "no FAKE [31m xxx" in record.getMessage()
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 600
    error = DatabaseError("down\nFAKE")
    error.__cause__ = OSError("x" * 10_000 + "\nFAKE")
    _, [record] = await lines(log, error)
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 1000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DatabaseError("the orders were not read"), "503 DATABASE_ERROR"),
        (RequestTimeoutError("the orders were not read"), "504 TIMEOUT"),
        (UpstreamServiceError("the orders were not read"), "503 UPSTREAM_SERVICE_ERROR"),
        (HTTPException(503, "the orders were not read"), "503 SERVICE_UNAVAILABLE"),
    ],
)
async def test_an_outage_is_one_line_with_its_causes(error, status, log):
    error.__cause__ = ExceptionGroup("attempts", [ConnectionRefusedError(111, "refused")])
    answer, [record] = await lines(log, error)
    shown = answer.json()["error"]
    assert record.getMessage().startswith(
        f"request failed: {status}, GET /orders/{{order_id}}, error_id={shown['error_id']}, "
        f"request_id=r-1: {type(error).__name__}: "
    )
    assert record.getMessage().endswith(
        "the orders were not read, caused by ConnectionRefusedError: [Errno 111] refused"
    )
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    assert b"refused" not in answer.body


async def test_at_debug_an_outage_has_its_traceback(log):
    logger = logging.getLogger("common.api")
    logger.setLevel(logging.DEBUG)
    try:
        _, [record] = await lines(log, DatabaseError("down"))
    finally:
        logger.setLevel(logging.NOTSET)
    assert record.exc_info


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (KeyError("x"), ": KeyError"),
        (InternalError("no such column"), ": InternalError: An unexpected error occurred"),
        (AppError("odd"), ": AppError: odd"),
        (DatabaseError("x", status=500), ": DatabaseError: x"),
        (HTTPException(502, "bad"), ": HTTPException: 502: bad"),
    ],
)
async def test_whatever_is_no_outage_keeps_its_traceback(error, end, log):
    _, [record] = await lines(log, error)
    assert record.getMessage().endswith(end)
    assert "GET /orders/{order_id}, error_id=" in record.getMessage()
    assert record.exc_info[1] is error


async def test_what_fails_after_the_response_is_not_said_to_have_a_status(log):
    app = FastAPI()
    install(app, service="orders")

    async def fail():
        raise KeyError

    @app.post("/", status_code=201)
    async def post(tasks: BackgroundTasks):
        tasks.add_task(fail)

    assert (await ask(app, "POST")).status == 201
    [record] = [record for record in log if record.name == "common.api"]
    assert record.getMessage().startswith(
        "request failed after the response: INTERNAL_ERROR, POST /, error_id="
    )
    assert "500" not in record.getMessage().partition(",")[0]


async def test_a_refused_websocket_says_which(log):
    app = FastAPI()
    install(app, service="orders")

    @app.websocket("/rooms/{room}")
    async def room(websocket: WebSocket, room: str):
        await websocket.close(reason="no\nFAKE")

    scope = scope_of(path="/rooms/s3cret", kind="websocket", headers=[(b"x-request-id", b"r-1")])
    await talk(app, scope, [{"type": "websocket.connect"}])
    [record] = [record for record in log if record.name == "common.api"]
    assert record.getMessage() == "websocket refused: WS /rooms/{room}, request_id=r-1: no FAKE"


async def test_parts_that_stand_alone_say_it_too(log):
    async def app(scope, receive, send):
        raise ConflictError

    assert (await ask(ErrorMiddleware(app), path="/s3cret")).status == 409
    alone = FastAPI()
    for error, handler in exception_handlers(ErrorRenderer()).items():
        alone.add_exception_handler(error, handler)

    @alone.get("/orders/{n}")
    async def fail(n: int):
        raise ConflictError

    assert (await ask(alone, path="/orders/1")).status == 409
    names = [record.getMessage().split(", ")[1] for record in log if record.name == "common.api"]
    assert names == ["GET unmatched", "GET /orders/{n}"]
