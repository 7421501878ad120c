"""Answers that are too long, broken, or no HTTP at all."""

import asyncio
import gzip
import random
import traceback
import tracemalloc
import zlib

import httpx
import pytest

from common.clients import Limits
from common.errors import (
    AppError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
)


def cut(data, *, reset=False):
    """Send this and go away."""

    async def reply(writer):
        writer.write(data)
        await writer.drain()
        if reset:
            await asyncio.sleep(0.01)
            writer.transport.abort()
        else:
            writer.close()

    return lambda request: reply


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nconte",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-y: 12345678\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"e" * 200_000,
    ],
    ids=[
        "nothing",
        "head",
        "body",
        "chunk",
        "no-chunk",
        "ssh",
        "header",
        "lengths",
        "long-header",
        "headers",
        "extension",
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_half_and_broken_answers_are_repeated_and_then_an_upstream_error(
    upstream, connect, data, reset
):
    upstream.reply = cut(data, reset=reset)
    async with connect() as client:
        with pytest.raises(UpstreamServiceError) as raised:
            await client.get("/a")
        assert client.bulkhead.active == 0
    assert raised.value.retryable
    assert len(upstream.requests) == 3
    await upstream.quiet()


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_an_answer_over_the_limit_is_refused(upstream, connect, reply_with, chunked):
    upstream.reply = lambda request: reply_with(200, b"x" * 1001, chunked=chunked)
    async with connect(limits=Limits(max_response_bytes=1000)) as client:
        with pytest.raises(UpstreamServiceError, match="longer than 1000 bytes") as raised:
            await client.get("/a")
        upstream.reply = lambda request: reply_with(200, b"x" * 1000, chunked=chunked)
        assert len((await client.get("/a")).content) == 1000
    assert not raised.value.retryable
    assert len(upstream.requests) == 2


async def test_an_announced_monster_is_refused_before_it_is_read(upstream, connect):
    upstream.reply = cut(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999\r\n\r\nx")
    async with connect() as client:
        with pytest.raises(UpstreamServiceError, match="longer than"):
            await client.get("/a")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_the_limit_is_for_what_comes_out_though_it_gets_longer_by_its_encoding(
    upstream, connect, reply_with, chunked
):
    data = random.Random(1).randbytes(1001)
    body = gzip.compress(data[:1000])
    assert len(body) > 1000
    upstream.reply = lambda request: reply_with(200, body, content_encoding="gzip", chunked=chunked)
    async with connect(limits=Limits(max_response_bytes=1000)) as client:
        assert (await client.get("/a")).content == data[:1000]
        body = gzip.compress(data)
        with pytest.raises(UpstreamServiceError, match="longer than 1000 bytes"):
            await client.get("/a")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_decompression_bomb_is_refused(upstream, connect, reply_with, encoding):
    encode = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = encode(bytes(100_000_000))
    upstream.reply = lambda request: reply_with(200, bomb, content_encoding=encoding)
    async with connect(limits=Limits(max_response_bytes=1_000_000)) as client:
        tracemalloc.start()
        try:
            with pytest.raises(UpstreamServiceError, match="longer than 1000000 bytes"):
                await client.get("/a")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5_000_000


async def test_endless_empty_members_of_gzip_are_refused(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(
        200, gzip.compress(b"") * 10_000, content_encoding="gzip", chunked=True
    )
    async with connect(limits=Limits(max_response_bytes=100_000)) as client:
        with pytest.raises(UpstreamServiceError, match="longer than 100000 bytes"):
            await client.get("/a")


async def test_encoded_answers_are_decoded_and_others_never_asked_for(
    upstream, connect, reply_with
):
    upstream.reply = lambda request: reply_with(
        200, gzip.compress(b'{"a": 1}'), content_encoding="GZIP"
    )
    async with connect() as client:
        assert (await client.get("/a")).json() == {"a": 1}
        assert upstream.requests[0].header("accept-encoding") == "gzip, deflate"
        upstream.reply = lambda request: reply_with(200, b"x", content_encoding="br")
        with pytest.raises(UpstreamServiceError, match="nobody asked for") as raised:
            await client.get("/a")
        assert not raised.value.retryable
        upstream.reply = lambda request: reply_with(
            200, b"not gzip at all", content_encoding="gzip"
        )
        with pytest.raises(UpstreamServiceError, match="cannot be decoded"):
            await client.get("/a")
        upstream.reply = lambda request: reply_with(
            200, gzip.compress(b"[1]")[:-9], content_encoding="gzip"
        )
        with pytest.raises(UpstreamServiceError, match="ends too early"):
            await client.get("/a")


async def test_an_errors_endless_body_does_not_hide_its_status(upstream, connect):
    async def drip(writer):
        writer.write(b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n.\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    upstream.reply = lambda request: drip
    async with connect(retry=False, timeout=30) as client:
        with pytest.raises(ServiceUnavailableError) as raised:
            await client.get("/a")
    assert raised.value.details["upstream_status"] == 503
    await upstream.quiet()


async def test_an_errors_huge_or_broken_body_does_not_hide_its_status(
    upstream, connect, reply_with
):
    async with connect(retry=False) as client:
        for reply in (
            reply_with(500, b"x" * 10_000_000),
            reply_with(500, b"x", content_encoding="gzip"),
            reply_with(500, b"x", content_encoding="br"),
        ):
            upstream.reply = lambda request, reply=reply: reply
            with pytest.raises(UpstreamServiceError) as raised:
                await client.get("/a")
            assert raised.value.upstream_status == 500


async def test_a_host_that_swallows_packets_ends_with_the_connect_timeout(connect):
    # TEST-NET-1 (RFC 5737) answers nobody; some machines have no route there at all.
    async with connect("http://192.0.2.1", connect_timeout=0.05, retry=False) as client:
        with pytest.raises(AppError) as raised:
            await client.get("/a")
    assert isinstance(raised.value, RequestTimeoutError | ServiceUnavailableError)


async def test_what_breaks_the_protocol_is_not_shown(upstream, connect):
    upstream.reply = cut(b"HTTP/1.1 200 OK\r\ncanary canary\r\n\r\n")
    async with connect(retry=False) as client:
        with pytest.raises(UpstreamServiceError, match=r"broken: illegal header line$") as raised:
            await client.get("/a")
    assert "canary" not in "".join(traceback.format_exception(raised.value))


async def test_an_answer_that_switches_protocols_is_refused(connect):
    transport = httpx.MockTransport(lambda request: httpx.Response(101))
    async with connect(retry=False, transport=transport) as client:
        with pytest.raises(UpstreamServiceError, match="switches protocols"):
            await client.get("/a")


async def test_interim_answers_are_skipped(upstream, connect, reply_with):
    upstream.reply = lambda request: (
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + reply_with(200)
    )
    async with connect() as client:
        assert (await client.get("/a")).status == 200
