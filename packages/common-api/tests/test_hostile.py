"""Hostile bytes on a real uvicorn."""

import gzip
import threading

import httpx
import pytest
from api_apps import make_app
from api_drivers import read_all

from common.api import Limits
from common.context import valid_id

HOSTILE = [
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + b"a" * 50_000 + b"\r\n", 431),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + b"a" * 100_000 + b"\r\n", {400, 431}),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 10_000, {400, 431}),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 1_000, 431),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\x1b[31mb\r\n", {200, 400}),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\r\nX-Request-ID: b\r\n", 200),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-ID: a b;c\r\n", 200),
    (b"GET /ok HTTP/1.1\r\nHost: a/b?c\r\n", 200),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
    (b"PWN /ok HTTP/1.1\r\nHost: a\r\n", 405),
    (b"GET /%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: a\r\n", 404),
    (b"GET //evil.test/ok HTTP/1.1\r\nHost: a\r\n", 404),
    (b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: " + b"1.1.1.1," * 1000 + b"\r\n", 200),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n", 413),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
    (b"GET / HTTP/9.9\r\n", {400, 404}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
]


@pytest.mark.parametrize(("head", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_on_a_real_socket(serve, head, status, log):
    server = serve(make_app())
    answer = server.raw(head + b"Connection: close\r\n\r\n")
    assert int(answer.split(b" ")[1]) in ({status} if isinstance(status, int) else status)
    lines = answer.split(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert not any(line.startswith(b"x-evil") for line in lines)
    found = [line for line in lines if line.startswith(b"x-request-id")]
    assert len(found) <= 1
    assert all(valid_id(line.split(b": ")[1].decode()) for line in found)
    for record in log:
        if record.name.startswith("common"):
            assert record.getMessage().isprintable()
    assert httpx.get(server.url + "/ok", timeout=60).status_code == 200


def test_a_slow_body_on_a_real_socket(serve):
    server = serve(make_app(limits=Limits(chunk_timeout=0.1)))
    with server.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"x-request-id" in answer.lower()


@pytest.mark.parametrize(
    ("length", "body", "status", "asked"),
    [(5, b"hello", 200, True), (5_000_000, b"", 413, False), (5, b"", 408, True)],
)
def test_a_body_is_asked_for_only_if_it_may_come(serve, length, body, status, asked):
    server = serve(make_app(limits=Limits(chunk_timeout=0.5 if status == 408 else 60)))
    with server.connect() as sock:
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % length
        )
        first = sock.recv(65536)
        assert first.startswith(b"HTTP/1.1 100 Continue\r\n\r\n") is asked
        sock.sendall(body)
        answer = (first + read_all(sock)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert int(answer.split(b" ")[1]) == status
    assert b"x-request-id" in answer.lower()


def test_a_body_that_never_ends_on_a_real_socket(serve):
    server = serve(make_app(limits=Limits(max_body=100_000)))
    with server.connect() as sock:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = 0
        try:
            sock.sendall(head)
            while sent < 200_000_000:
                sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 200_000_000
    assert httpx.get(server.url + "/ok", timeout=60).status_code == 200


def test_two_bodies_are_not_smuggled_into_one(serve):
    server = serve(make_app(limits=Limits(max_body=10)))
    smuggled = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    assert server.raw(head + smuggled).count(b"HTTP/1.1 ") == 1


def test_decompression_bombs_on_a_real_socket(serve):
    server = serve(make_app(decompress=True))
    bomb = gzip.compress(b"\0" * 100_000_000)
    answer = httpx.post(
        server.url + "/echo", content=bomb, headers={"content-encoding": "gzip"}, timeout=60
    )
    assert answer.status_code == 413


def test_a_client_that_does_not_read_is_left(serve, operations):
    from fastapi.responses import StreamingResponse

    app = make_app(limits=Limits(write_timeout=0.1))

    @app.get("/endless")
    async def endless():
        async def parts():
            while True:
                yield b"x" * 100_000

        return StreamingResponse(parts())

    server = serve(app)
    with server.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        while not operations.server:
            threading.Event().wait(0.01)
        assert httpx.get(server.url + "/ok", timeout=60).status_code == 200
    assert (operations.server[0].name, operations.server[0].outcome) == (
        "GET /endless",
        "cancelled",
    )


def test_deeply_nested_json_is_no_crash(serve):
    server = serve(make_app())
    answer = httpx.post(
        server.url + "/typed",
        content=b"[" * 900_000,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code in (400, 422)
