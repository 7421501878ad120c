"""Answers that are read as they come."""

import asyncio
import gzip
from contextlib import suppress

import pytest

from common.clients import ClientClosedError, Hedge, Limits
from common.context import DeadlineExceeded, deadline, remaining
from common.errors import NotFoundError, RequestTimeoutError, UpstreamServiceError


def endless(reply_with, chunk=b"x" * 1000):
    async def stream(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
            await asyncio.sleep(0.001)

    return stream


async def drain(client, got=None, **options):
    async with client.stream("GET", "/export", **options) as response:
        async for piece in response.iter_bytes():
            if got is not None:
                got += piece


async def test_a_stream_is_read_in_pieces(upstream, connect, reply_with):
    body = bytes(range(256)) * 2000
    upstream.reply = lambda request: reply_with(
        200, gzip.compress(body), chunked=True, content_encoding="gzip", etag="x"
    )
    async with connect() as client:
        async with client.stream("GET", "/export") as response:
            assert (response.status, response.headers["etag"]) == (200, "x")
            pieces = [piece async for piece in response.iter_bytes()]
            with pytest.raises(RuntimeError, match="already"):
                await anext(response.iter_bytes())
        assert b"".join(pieces) == body
        await client.get("/a")
    assert upstream.accepted == 1  # read to its end, the connection serves again


async def test_lines_come_whole_whatever_the_pieces(upstream, connect, reply_with):
    text = "".join(f"{number} ü\r\n" for number in range(20_000)) + "\n\nlast"

    async def slowly(writer):
        data = text.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data))
        for at in range(0, len(data), 7777):
            writer.write(data[at : at + 7777])
            await writer.drain()

    upstream.reply = lambda request: slowly
    async with connect() as client, client.stream("GET", "/lines") as response:
        lines = [line async for line in response.iter_lines()]
    assert lines == text.replace("\r\n", "\n").split("\n")


async def test_a_line_without_end_is_refused(upstream, connect, reply_with):
    upstream.reply = lambda request: endless(reply_with)
    async with connect() as client, client.stream("GET", "/lines") as response:
        with pytest.raises(UpstreamServiceError, match="line is longer than 5000 bytes"):
            _ = [line async for line in response.iter_lines(longest=5000)]
    await upstream.quiet()


async def test_leaving_early_closes_the_connection_and_gives_the_place_back(
    upstream, connect, reply_with
):
    upstream.reply = lambda request: endless(reply_with)
    async with connect(limits=Limits(max_concurrency=1)) as client:
        for _ in range(3):
            async with client.stream("GET", "/export") as response:
                assert await anext(aiter(response.iter_bytes()))
                assert client.bulkhead.active == 1
            assert client.bulkhead.active == 0
            await upstream.quiet()
        with suppress(ZeroDivisionError):
            async with client.stream("GET", "/export"):
                _ = 1 / 0
        await upstream.quiet()


async def test_an_error_status_is_raised_before_the_body(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(404, {"error": {"code": "NO_EXPORT"}})
    async with connect() as client:
        with pytest.raises(NotFoundError):
            await drain(client)
        assert client.bulkhead.active == 0


async def test_opening_is_repeated_but_reading_is_not(upstream, connect, reply_with):
    async def half(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    replies = iter([reply_with(503), half])
    upstream.reply = lambda request: next(replies)
    got = bytearray()
    async with connect() as client:
        with pytest.raises(UpstreamServiceError, match=r"answer is broken|connection broke"):
            await drain(client, got)
    assert (bytes(got), len(upstream.requests)) == (b"half", 2)


async def test_a_size_can_be_set(upstream, connect, reply_with):
    upstream.reply = lambda request: endless(reply_with)
    async with connect() as client:
        with pytest.raises(UpstreamServiceError, match="longer than 10000 bytes"):
            await drain(client, max_bytes=10_000)
    await upstream.quiet()


async def test_the_callers_deadline_ends_a_stream_that_never_ends(upstream, connect, reply_with):
    upstream.reply = lambda request: endless(reply_with)
    async with connect() as client:
        with pytest.raises(DeadlineExceeded), deadline(0.2):
            await drain(client)
        assert client.bulkhead.active == 0
    await upstream.quiet()


async def test_the_timeout_is_for_the_beginning_and_not_for_the_whole_stream(
    upstream, connect, reply_with, skip
):
    upstream.reply = lambda request: endless(reply_with)
    async with connect(timeout=60) as client, client.stream("GET", "/export") as response:
        assert remaining() is None
        pieces = response.iter_bytes()
        for _ in range(5):
            assert await anext(pieces)
            skip(50)
        await pieces.aclose()


async def test_a_stream_that_falls_silent_ends(upstream, connect, reply_with):
    async def silent(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        await asyncio.Event().wait()

    upstream.reply = lambda request: silent
    async with connect(timeout=0.1) as client:
        with pytest.raises(RequestTimeoutError):
            await drain(client)
    await upstream.quiet()


async def test_closing_the_client_ends_the_streams_of_others(upstream, connect, reply_with):
    upstream.reply = lambda request: endless(reply_with)
    reading = asyncio.Event()
    client = connect()

    async def read():
        async with client.stream("GET", "/export") as response:
            async for _ in response.iter_bytes():
                reading.set()

    async with client:
        task = asyncio.create_task(read())
        await reading.wait()
        await client.close()
        with pytest.raises(ClientClosedError):
            await task
    await upstream.quiet()


async def test_closing_the_client_within_ones_own_stream_does_not_hang(
    upstream, connect, reply_with
):
    upstream.reply = lambda request: endless(reply_with)
    client = connect()
    async with client, client.stream("GET", "/export"):
        async with asyncio.timeout(60):
            await client.close()


async def test_a_stream_that_its_own_client_was_closed_under_says_so(upstream, connect, reply_with):
    upstream.reply = lambda request: endless(reply_with)
    client = connect()
    async with client, client.stream("GET", "/export") as response:
        pieces = response.iter_bytes()
        await anext(pieces)
        await client.close()
        with pytest.raises(ClientClosedError):
            await anext(pieces)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_is_read_within_its_statement(upstream, connect, reply_with, begun):
    upstream.reply = lambda request: reply_with(200, b"x" * 1_000_000)
    async with connect() as client:
        async with client.stream("GET", "/export") as response:
            pieces = response.iter_bytes()
            if begun:
                await anext(pieces)
        with pytest.raises(RuntimeError, match="within its 'async with'"):
            await anext(pieces)


async def test_streams_are_not_hedged(connect):
    async with connect() as client:
        with pytest.raises(ValueError, match="hedge"):
            await drain(client, hedge=Hedge(after=1))
