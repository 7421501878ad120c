"""Bounds for requests, and for how slowly they come."""

import asyncio
from typing import Any, cast

import pytest
from api_apps import code, make_app
from api_drivers import ask, scope_of, talk
from fastapi import Request

from common.api import Limits
from common.context import valid_id


@pytest.mark.parametrize("path", ["/echo", "/typed"])
async def test_a_body_beyond_the_limit_is_refused_by_its_length_and_by_what_comes(path):
    app = make_app(limits=Limits(max_body=10))
    answer = await ask(app, "POST", path, body=b"x" * 11)
    assert code(answer) == (413, "BODY_TOO_LARGE")
    assert answer.header("connection") == "close"
    parts = [{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 2
    headers = [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]
    assert code(await talk(app, scope_of("POST", path, headers=headers), parts)) == (
        413,
        "BODY_TOO_LARGE",
    )
    liar = [(b"content-length", b"1"), (b"content-type", b"application/json")]
    assert (await talk(app, scope_of("POST", path, headers=liar), parts)).status == 413
    assert (await ask(app, "POST", "/echo", body=b"x" * 10)).json()["size"] == 10


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "9" * 5000, "\xb2"])
async def test_lengths_that_are_none(length):
    headers = [(b"content-length", length.encode("latin-1"))]
    answer = await talk(make_app(), scope_of("POST", "/echo", headers=headers), [])
    assert answer.status == (413 if length.isdigit() and length.isascii() else 400)
    two = [(b"content-length", b"1"), (b"content-length", b"2")]
    assert (await talk(make_app(), scope_of("POST", "/echo", headers=two), [])).status == 400


@pytest.mark.parametrize("length", [b"0", b"5", b"x"])
async def test_a_length_beside_an_encoding_is_refused_and_hides_no_body(length):
    headers = [(b"content-length", length), (b"transfer-encoding", b"chunked")]
    big = [{"type": "http.request", "body": b"x" * 100, "more_body": False}]
    app = make_app(limits=Limits(max_body=10))
    for each in (headers, headers[::-1]):
        answer = await talk(app, scope_of("POST", "/echo", headers=each), big)
        assert code(answer) == (400, "BODY_FRAMING_INVALID")
        assert answer.header("connection") == "close"


@pytest.mark.parametrize("limits", [{"chunk_timeout": 0.02}, {"body_timeout": 0.02}])
async def test_a_body_that_does_not_come_is_given_up(limits):
    app = make_app(limits=Limits(**limits))
    headers = [(b"content-length", b"5")]
    begun = [{"type": "http.request", "body": b"x", "more_body": True}]
    answer = await talk(app, scope_of("POST", "/echo", headers=headers), begun)
    assert code(answer) == (408, "BODY_TOO_SLOW")


async def test_a_body_that_drips_is_given_up_in_all():
    app = make_app(limits=Limits(chunk_timeout=60, body_timeout=0.05))
    answer_messages = []

    async def receive():
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        answer_messages.append(message)

    scope = scope_of("POST", "/echo", headers=[(b"transfer-encoding", b"chunked")])
    await app(scope, receive, send)
    assert answer_messages[0]["status"] == 408


async def test_waiting_for_the_disconnect_is_not_slow():
    app = make_app(limits=Limits(chunk_timeout=0.3, body_timeout=0.3))

    @app.post("/wait")
    async def wait(request: Request):
        await request.body()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(request.receive(), 0.6)

    assert (await ask(app, "POST", "/wait", body=b"x")).status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": [("x-a", "b")] * 10_000}, 431),
        ({"headers": [("x-a", "b" * 100_000)]}, 431),
        ({"path": "/" + "a" * 100_000}, 414),
        ({"path": "/ok?" + "a" * 100_000}, 414),
    ],
)
async def test_heads_beyond_the_limits(request_, status):
    answer = await ask(make_app(), **request_)
    assert answer.status == status
    assert valid_id(answer.header("x-request-id"))
    assert answer.header("connection") == "close"


async def test_limits_can_be_taken_away_and_must_make_sense():
    app = make_app(limits=None)
    assert (await ask(app, "POST", "/echo", body=b"x" * 3_000_000)).json()["size"] == 3_000_000
    for value in (0, "1MB", True, float("nan")):
        with pytest.raises(ValueError, match=f"max_body={value!r}: give a number above 0"):
            Limits(max_body=cast("Any", value))


async def test_the_heads_of_websockets_have_limits_too():
    scope = scope_of(path="/ws", kind="websocket", headers=[(b"x-a", b"b" * 100_000)])
    answer = await talk(make_app(), scope, [{"type": "websocket.connect"}])
    assert code(answer) == (431, "HEADERS_TOO_LARGE")
