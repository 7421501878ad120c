"""Ids and trace: whose are taken over, and where they go."""

import asyncio

import pytest
from api_drivers import ask, scope_of, talk
from fastapi import APIRouter, FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from common.api import RequestContextMiddleware, install
from common.context import Trace, bind, current, observe, valid_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def echo(scope, receive, send):
    context = current()
    body = f"{context.request_id} {context.correlation_id} {dict(context.baggage)}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def wrapped(**options):
    return RequestContextMiddleware(echo, service="orders", **options)


async def test_valid_ids_are_taken_over():
    headers = {"X-Request-ID": "r-1", "X-Correlation-ID": "c-1", "traceparent": PARENT}
    answer = await ask(wrapped(), headers=headers)
    assert answer.body == b"r-1 c-1 {}"
    assert answer.header("x-request-id") == "r-1"
    assert answer.header("x-correlation-id") == "c-1"
    assert answer.header("traceparent") == PARENT
    assert answer.header("x-trace-id") == "0af7651916cd43dd8448eb211c80319c"
    assert answer.header("x-service-name") == "orders"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-request-id", "")],
        [("x-request-id", "a" * 129)],
        [("x-request-id", "a" * 100_000)],
        [("x-request-id", "a\r\nx-evil: 1")],
        [("x-request-id", "\x1b[31m")],
        [("x-request-id", b"\xff\xfe")],
        [("x-request-id", "a"), ("x-request-id", "b")],
    ],
)
async def test_other_ids_are_replaced(headers):
    answer = await ask(wrapped(), headers=headers)
    made = answer.header("x-request-id")
    assert valid_id(made)
    assert len(made) == 36
    assert answer.header("x-correlation-id") == made


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"x-request-id", b"x-correlation-id", b"traceparent", b"tracestate", b"baggage"]
            ),
            st.binary(max_size=200),
        ),
        max_size=6,
    )
)
def test_whatever_comes_what_goes_is_valid(headers):
    answer = asyncio.run(ask(wrapped(), headers=headers))
    assert answer.error is None
    assert valid_id(answer.header("x-request-id"))
    assert valid_id(answer.header("x-correlation-id"))
    assert len(answer.header("traceparent")) == 55


@pytest.mark.parametrize(
    ("rule", "client", "believed"),
    [
        (True, "203.0.113.7", True),
        (False, "203.0.113.7", False),
        (["203.0.113.0/24"], "203.0.113.7", True),
        (["10.0.0.0/8"], "203.0.113.7", False),
        (["10.0.0.0/8"], "not an address", False),
        (lambda scope: scope["client"][0].startswith("203."), "203.0.113.7", True),
    ],
)
async def test_the_rule_says_whose_ids_are_believed_and_traces_always_go_on(rule, client, believed):
    headers = {"X-Request-ID": "r-1", "baggage": "plan=gold", "traceparent": PARENT}
    answer = await ask(wrapped(request_id=rule), headers=headers, client=(client, 1))
    assert (answer.header("x-request-id") == "r-1") is believed
    assert (b"gold" in answer.body) is believed
    assert answer.header("traceparent") == PARENT


@pytest.mark.parametrize("service", ["", "a b", "x\r\ny", "a" * 129])
def test_a_service_that_cannot_be_a_header_is_refused(service):
    with pytest.raises(ValueError, match="letters"):
        RequestContextMiddleware(echo, service=service)


async def test_what_the_handler_sets_does_not_make_second_headers():
    async def app(scope, receive, send):
        headers = [(b"X-Request-ID", b"mine"), (b"x-other", b"stays")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    answer = await ask(RequestContextMiddleware(app))
    assert answer.header("x-request-id") != "mine"
    assert answer.header("x-other") == "stays"
    assert answer.header("x-service-name") is None


async def test_the_trace_is_the_one_an_observer_makes():
    class Tracer:
        def on_start(self, op):
            self.bound = bind(trace=op.context.trace.child("00f067aa0ba902b7"))
            self.bound.__enter__()

        def on_end(self, op):
            self.bound.__exit__(None, None, None)

    with observe(Tracer()) as observation:
        answer = await ask(wrapped(), headers={"traceparent": PARENT})
    assert observation.failures == 0
    assert "-00f067aa0ba902b7-" in answer.header("traceparent")


async def test_nested_layers_act_once(operations):
    answer = await ask(RequestContextMiddleware(wrapped()))
    assert len(answer.all("x-request-id")) == 1
    assert len(operations.server) == 1


async def test_a_client_that_goes_away_is_neither_success_nor_failure(operations):
    app = FastAPI()
    install(app, service="orders")

    @app.post("/upload")
    async def upload(request: Request):
        await request.body()

    half = {"type": "http.request", "body": b"x", "more_body": True}
    scope = scope_of("POST", "/upload")
    answer = await talk(app, scope, [half, {"type": "http.disconnect"}])
    assert answer.error is None
    [op] = operations.server
    assert (op.name, op.outcome) == ("POST /upload", "cancelled")


async def test_a_disconnect_after_the_response_changes_nothing(operations):
    async def app(scope, receive, send):
        await echo(scope, receive, send)
        await receive()

    await talk(RequestContextMiddleware(app), scope_of(), [{"type": "http.disconnect"}])
    assert operations.server[0].outcome == "ok"


async def test_cancellation_goes_through_and_is_reported(operations):
    begun = asyncio.Event()

    async def app(scope, receive, send):
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(RequestContextMiddleware(app)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert operations.server[0].outcome == "cancelled"
    assert current().request_id is None


async def test_background_tasks_are_not_part_of_the_operation(operations):
    async def app(scope, receive, send):
        await echo(scope, receive, send)
        assert len(operations.server) == 1
        assert current().request_id == "r-1"

    answer = await ask(RequestContextMiddleware(app), headers={"X-Request-ID": "r-1"})
    assert answer.error is None


async def test_invented_methods_share_one_name(operations):
    app = FastAPI()
    install(app, service="orders")

    @app.get("/ok")
    async def ok(): ...

    for number in range(300):
        assert (await ask(app, f"PWN{number}", "/ok")).status == 405
        assert (await ask(app, "GET", f"/{number}")).status == 404
    assert {op.name for op in operations.server} == {"_OTHER /ok", "GET unmatched"}
    assert {op.attributes["http.request.method"] for op in operations.server} == {"_OTHER", "GET"}


async def test_names_are_templates_wherever_a_route_is(operations, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    app, sub, subsub = FastAPI(), FastAPI(), FastAPI()
    install(app, service="orders")
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    async def plain(request):
        return PlainTextResponse("x")

    @inner.get("/{x}")
    async def handler(x: str): ...

    @subsub.get("/leaf/{y}")
    async def leaf(y: str): ...

    outer.include_router(inner)
    outer.mount("/m/{tenant}", subsub)
    app.include_router(outer, prefix="/v1")
    app.router.routes.append(Route("/plain/{z}", plain))
    app.router.routes.append(Mount("/static", StaticFiles(directory=tmp_path)))
    app.router.routes.append(Mount("/routes/{tenant}", routes=[Route("/r/{z}", plain)]))
    sub.mount("/b", subsub)
    sub.include_router(inner, prefix="/w")
    app.mount("/tenants/{tenant}", sub)
    for path, template in {
        "/v1/outer/inner/secret": "/v1/outer/inner/{x}",
        "/v1/m/secret/leaf/secret": "/v1/m/{tenant}/leaf/{y}",
        "/v1/m/secret/secret": "/v1/m/{tenant}/{path}",
        "/plain/secret": "/plain/{z}",
        "/static/a.txt": "/static/{path}",
        "/static/secret": "/static/{path}",
        "/routes/secret/r/secret": "/routes/{tenant}/r/{z}",
        "/tenants/secret/b/leaf/secret": "/tenants/{tenant}/b/leaf/{y}",
        "/tenants/secret/w/inner/secret": "/tenants/{tenant}/w/inner/{x}",
        "/tenants/secret/secret": "/tenants/{tenant}/{path}",
        "/secret": "unmatched",
    }.items():
        for root in ("", "/proxy"):
            operations.ended.clear()
            await ask(app, path=root + path, root_path=root)
            assert operations.server[0].name == f"GET {template}", path
            assert "secret" not in str(operations.server[0].attributes)


async def test_lifespan_goes_through_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    await talk(RequestContextMiddleware(app), {"type": "lifespan"}, [])
    assert seen == [{"type": "lifespan"}]


async def test_without_an_observer_nothing_is_missing():
    answer = await ask(wrapped(), headers={"X-Request-ID": "r-1"})
    assert answer.header("x-request-id") == "r-1"


def test_the_trace_type_is_what_the_header_says():
    assert Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1).traceparent == PARENT


async def test_a_route_that_cannot_be_named_breaks_nothing(operations, log):
    async def app(scope, receive, send):
        scope["fastapi"] = {"effective_route_context": object()}
        scope["route"] = object()
        await echo(scope, receive, send)

    answer = await ask(RequestContextMiddleware(app))
    assert (answer.status, answer.error) == (200, None)
    assert operations.server[0].name == "GET unmatched"
    assert any("template" in record.getMessage() for record in log)


def test_a_rule_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match="request_id=None"):
        wrapped(request_id=None)


async def test_a_rule_that_fails_trusts_nobody_and_the_log_says_so(log):
    answer = await ask(
        wrapped(request_id=lambda scope: scope["client"][0] == "10.0.0.1"),
        headers={"X-Request-ID": "r-1"},
        client=None,
    )
    assert answer.status == 200
    assert answer.header("x-request-id") not in (None, "r-1")
    assert any("request_id=" in record.getMessage() and record.exc_info for record in log)


async def test_background_tasks_of_a_stream_are_not_part_of_its_operation(operations):
    app = FastAPI()
    install(app, service="orders")
    ended = []

    async def later():
        ended.extend(operation.name for operation in operations.server)

    async def parts():
        yield b"x"

    @app.get("/")
    async def stream():
        return StreamingResponse(parts(), background=BackgroundTask(later))

    assert (await ask(app)).error is None
    assert ended == ["GET /"]


async def test_a_file_sent_by_the_server_itself_is_a_whole_response(operations):
    async def file(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/file"})
        assert [operation.outcome for operation in operations.server] == ["ok"]
        assert (await receive())["type"] == "http.disconnect"

    app = RequestContextMiddleware(file)
    scope = scope_of()
    await talk(app, scope, [{"type": "http.disconnect"}])
    assert [operation.outcome for operation in operations.server] == ["ok"]
