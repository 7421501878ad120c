"""Compressed bodies, honest ones and bombs."""

import gzip
import json
import random
import tracemalloc
import zlib
from typing import Any

import pytest
from api_apps import code, make_app
from api_drivers import ask, scope_of, talk

from common.api import DecompressMiddleware, HTTPError


def deflate(body):
    return zlib.compress(body)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"0123456789" * 1000)),
        ("x-gzip", gzip.compress(b"0123456789" * 1000)),
        ("GZIP", gzip.compress(b"0123456789" * 500) + gzip.compress(b"0123456789" * 500)),
        ("deflate", deflate(b"0123456789" * 1000)),
        ("identity", b"0123456789" * 1000),
    ],
    ids=["gzip", "x-gzip", "members", "deflate", "identity"],
)
@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_compressed_bodies_arrive_plain(encoding, packed, piece):
    app = make_app(decompress=True)
    pieces = [packed[i : i + piece] for i in range(0, len(packed), piece)]
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    headers = [(b"content-encoding", encoding.encode()), (b"content-length", b"%d" % len(packed))]
    answer = await talk(app, scope_of("POST", "/echo", headers=headers), messages)
    assert answer.json() == {"size": 10_000, "head": "0123456789"}


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b"\0" * 50_000_000), 413),
        ("gzip", gzip.compress(gzip.compress(b"\0" * 1_000_000) * 20), 200),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"x" * 1000)[:-12], 400),
        ("gzip", gzip.compress(b"x") + b"trailing", 400),
        ("br", b"x", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), 415),
        ("gzip", b"", 200),
        ("gzip", gzip.compress(b"") * 10_000, 400),
        ("gzip", gzip.compress(b"x" * 300) * 200, 200),
    ],
    ids=[
        "bomb",
        "nested",
        "none",
        "half",
        "trailing",
        "unknown",
        "twice",
        "empty",
        "tiny members",
        "some members",
    ],
)
async def test_bombs_and_broken_bodies(encoding, body, status):
    answer = await ask(
        make_app(decompress=True),
        "POST",
        "/echo",
        body=body,
        headers={"content-encoding": encoding},
    )
    assert answer.status == status
    if status == 415:
        assert answer.header("accept-encoding") == "gzip, deflate"


async def test_a_typed_body_may_be_compressed_and_its_bomb_is_no_400():
    app = make_app(decompress=True)
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    good = gzip.compress(json.dumps({"a": 1}).encode())
    assert (await ask(app, "POST", "/typed", body=good, headers=headers)).json() == {"a": 1}
    bomb = gzip.compress(b"[" * 50_000_000)
    assert (await ask(app, "POST", "/typed", body=bomb, headers=headers)).status == 413


async def peak_of(app, body, *, piece):
    """Bytes that reading a gzip body through ``app`` takes at most, and its refusal, if any."""
    parts = [body[i : i + piece] for i in range(0, len(body), piece)]
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    tracemalloc.start()
    try:
        headers = [(b"content-encoding", b"gzip")]
        answer = await talk(app, scope_of("POST", headers=headers), messages)
        return tracemalloc.get_traced_memory()[1], answer.error
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", [1000, 1_000_000])
async def test_a_bomb_comes_out_piece_by_piece_and_is_never_held(piece):
    given = 0

    async def count(scope, receive, send):
        nonlocal given
        while (message := await receive())["more_body"]:
            given += len(message["body"])

    bomb = gzip.compress(bytes(50_000_000))
    generous = DecompressMiddleware(count, max_body=60_000_000, max_ratio=2000)
    peak, error = await peak_of(generous, bomb, piece=piece)
    assert (given, error) == (50_000_000, None)
    assert peak < 1_000_000


@pytest.mark.parametrize("piece", [1000, 1_000_000])
async def test_a_refused_bomb_takes_no_more_memory_than_an_honest_body(piece):
    async def keep(scope, receive, send):
        body = []
        while (message := await receive())["more_body"]:
            body.append(message["body"])

    peak, error = await peak_of(
        DecompressMiddleware(keep), gzip.compress(bytes(50_000_000)), piece=piece
    )
    assert isinstance(error, HTTPError)
    assert (error.status_code, error.code) == (413, "BODY_RATIO_TOO_HIGH")
    assert peak < 9 * 1024 * 1024


async def test_compressed_bodies_stay_as_they_are_by_default():
    packed = gzip.compress(b"x" * 100)
    answer = await ask(
        make_app(), "POST", "/echo", body=packed, headers={"content-encoding": "gzip"}
    )
    assert answer.json()["size"] == len(packed)


async def test_the_refusal_says_which_bound_it_was():
    app = make_app(decompress=True, limits=None)
    for size, expected in ((1_000_000, "BODY_RATIO_TOO_HIGH"), (9_000_000, "BODY_TOO_LARGE")):
        piece = b"\0" * size if expected == "BODY_RATIO_TOO_HIGH" else random.randbytes(size)
        headers = {"content-encoding": "gzip"}
        answer = await ask(app, "POST", "/echo", body=gzip.compress(piece, 1), headers=headers)
        assert code(answer) == (413, expected)


@pytest.mark.parametrize("name", ["max_body", "max_ratio"])
@pytest.mark.parametrize("value", ["1MB", 0])
def test_bounds_that_are_none_are_refused_by_name(name, value):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}="):
        DecompressMiddleware(make_app(), **options)
