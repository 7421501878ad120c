"""One call sets everything up, once, in time."""

import logging
import subprocess
import sys
from typing import Any, cast

import pytest
from api_drivers import ask
from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.applications import Starlette

from common.api import (
    ClientIPDep,
    MemoryIdempotencyStore,
    RequestContextMiddleware,
    idempotent,
    install,
)
from common.errors import NotFoundError


def test_a_second_time_is_an_error():
    app = FastAPI()
    install(app, service="orders")
    with pytest.raises(RuntimeError, match="once"):
        install(app, service="orders")


async def test_after_the_start_is_an_error():
    app = FastAPI()
    await ask(app)
    with pytest.raises(RuntimeError, match="started"):
        install(app, service="orders")


@pytest.mark.parametrize(
    "options",
    [
        {"service": "a b"},
        {"service": "orders", "errors": "xml"},
        {"service": "orders", "request_id": ["x"]},
        {"service": "orders", "proxies": ["x"]},
        {"service": "orders", "deadline": 0},
        {"service": "orders", "deadline": None, "default_deadline": 1.0},
        {"service": "orders", "hosts": []},
        {"service": "orders", "problem_types": "https://e.test/"},
    ],
)
def test_what_cannot_be_is_refused_and_leaves_the_app_as_it_was(options):
    app = FastAPI()
    before = dict(app.exception_handlers)
    with pytest.raises(ValueError, match=r"."):
        install(app, **options)
    assert app.exception_handlers == before
    install(app, service="orders")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("health", [1]),
        ("limits", 5),
        ("cors", ["https://app.example.com"]),
        ("idempotency", True),
        ("idempotency", MemoryIdempotencyStore),
        ("service", None),
        ("decompress", 5),
        ("security_headers", "no"),
        ("metrics", "page"),
        ("proxies", "10.0.0.0/8"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_name(name, value):
    app = FastAPI()
    options: dict[str, Any] = {"service": "orders", name: value}
    with pytest.raises(TypeError, match=f"{name}=|{name}:|list of networks"):
        install(app, **options)
    install(app, service="orders")


@pytest.mark.parametrize(
    ("name", "value"), [("deadline", "3"), ("deadline", True), ("default_deadline", "3")]
)
def test_seconds_that_are_no_number_are_refused_by_name(name, value):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}=.*give a number above 0"):
        install(FastAPI(), service="orders", **options)


def test_problem_types_are_text():
    with pytest.raises(TypeError, match="problem_types=5"):
        install(FastAPI(), service="orders", errors="problem", problem_types=cast("Any", 5))


@pytest.mark.parametrize("app", [Starlette(), APIRouter(), FastAPI])
def test_what_is_no_application_is_refused(app):
    with pytest.raises(TypeError, match=r"app is a \w+: give the FastAPI"):
        install(app, service="orders")


async def test_middleware_added_before_and_after_is_inside():
    app, order = FastAPI(), []

    class Mark:
        def __init__(self, app, name):
            self.app, self.name = app, name

        async def __call__(self, scope, receive, send):
            order.append(self.name)
            await self.app(scope, receive, send)

    app.add_middleware(Mark, name="inner")
    install(app, service="orders")
    app.add_middleware(Mark, name="outer")
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    assert (await ask(app)).header("x-request-id")
    assert order == ["outer", "inner"]
    assert len(app.user_middleware) == 3
    assert isinstance(app.middleware_stack, RequestContextMiddleware)


async def test_two_apps_keep_apart():
    one, two = FastAPI(), FastAPI()
    install(one, service="one", errors="problem")
    install(two, service="two")
    assert (await ask(one, path="/x")).header("content-type") == "application/problem+json"
    assert (await ask(two, path="/x")).header("content-type") == "application/json"
    assert (await ask(one, path="/x")).header("x-service-name") == "one"


async def test_a_mounted_app_that_was_installed_itself_keeps_its_style_and_gives_ids_once(
    operations,
):
    outer, inner = FastAPI(), FastAPI()
    install(outer, service="outer")
    install(inner, service="inner", errors="problem")

    @inner.get("/x")
    async def fail():
        raise NotFoundError

    outer.mount("/in", inner)
    answer = await ask(outer, path="/in/x")
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("x-service-name") == "outer"
    assert answer.json()["request_id"] == answer.header("x-request-id")
    assert [op.name for op in operations.server] == ["GET /in/x"]


async def test_debug_pages_are_starlettes_own():
    app = FastAPI(debug=True)
    install(app, service="orders")

    @app.get("/")
    async def crash():
        raise KeyError("shown")

    answer = await ask(app)
    assert (answer.status, b"shown" in answer.body) == (500, True)
    assert answer.header("x-request-id")


def test_a_crash_is_logged_once_and_the_server_is_not_bothered(serve, log):
    import httpx

    app = FastAPI()
    install(app, service="orders")

    @app.get("/crash")
    async def crash():
        raise KeyError

    server = serve(app)
    with httpx.Client(timeout=60) as client:
        assert [client.get(server.url + "/crash").status_code for _ in range(2)] == [500, 500]
    errors = [r for r in log if r.levelno >= logging.ERROR]
    assert [r.name for r in errors] == ["common.api"] * 2


def test_importing_does_nothing_and_needs_no_server():
    code = (
        "import sys, common.api, logging; "
        "assert 'uvicorn' not in sys.modules and 'httpx' not in sys.modules; "
        "assert not logging.getLogger('common.api').handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_mounted_app_that_was_installed_itself_keeps_its_settings():
    outer, inner = FastAPI(), FastAPI()
    install(outer, service="outer")
    install(inner, service="inner", proxies=["203.0.113.7"], idempotency=MemoryIdempotencyStore())

    @outer.get("/ip")
    @inner.get("/ip")
    async def ip(address: ClientIPDep):
        return address

    @inner.post("/once", dependencies=[Depends(idempotent())])
    async def once(): ...

    outer.mount("/in", inner)
    headers = {"X-Forwarded-For": "198.51.100.1"}
    assert (await ask(outer, path="/in/ip", headers=headers)).json() == "198.51.100.1"
    assert (await ask(outer, path="/ip", headers=headers)).json() == "203.0.113.7"
    for replayed in (None, "true"):
        answer = await ask(outer, "POST", "/in/once", headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.header("idempotency-replayed")) == (200, replayed)
