"""Connections are kept, bounded, and never lost to a cancellation."""

import asyncio
import gc

import httpx
import pytest

from common.clients import ClientClosedError, ClientConfig, Limits
from common.clients._connections import Connections


@pytest.fixture
def connections(upstream):
    def make(**limits):
        limits.setdefault("idle_seconds", 60)
        return Connections(
            ClientConfig(service="billing", base_url=upstream.url, limits=Limits(**limits))
        )

    return make


async def fetch(connections, url):
    response = await connections.handle_async_request(httpx.Request("GET", url))
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.aclose()


async def test_a_connection_is_used_again(upstream, connections):
    pool = connections()
    for _ in range(5):
        assert await fetch(pool, upstream.url) == b'{"ok": true}'
    assert (upstream.accepted, len(pool._idle), pool._busy) == (1, 1, set())
    await pool.aclose()
    await upstream.quiet()


async def test_no_more_are_kept_than_allowed(upstream, connections):
    pool = connections(max_idle_connections=2)
    await asyncio.gather(*(fetch(pool, upstream.url) for _ in range(8)))
    assert len(pool._idle) <= 2
    await pool.aclose()
    pool = connections(max_idle_connections=0)
    await fetch(pool, upstream.url)
    await upstream.quiet()
    await pool.aclose()


async def test_what_was_idle_for_too_long_is_closed_though_others_are_in_use(upstream, connections):
    pool = connections(idle_seconds=1000)
    await asyncio.gather(*(fetch(pool, upstream.url) for _ in range(5)))
    assert upstream.open == 5
    pool._idle = type(pool._idle)((since - 2000, each) for since, each in pool._idle)
    await fetch(pool, upstream.url)
    async with asyncio.timeout(60):
        while upstream.open > 1:
            await asyncio.sleep(0.001)
    await pool.aclose()


async def test_connections_to_other_places_are_not_kept(other, connections):
    pool = connections()
    await fetch(pool, other.url)
    await other.quiet()
    assert (len(pool._idle), pool._busy) == (0, set())
    await pool.aclose()


async def test_going_to_another_place_costs_no_kept_connection(upstream, other, connections):
    pool = connections()
    await fetch(pool, upstream.url)
    await fetch(pool, other.url)
    await fetch(pool, upstream.url)
    assert (upstream.accepted, other.accepted) == (1, 1)
    await pool.aclose()


async def test_an_answer_that_was_not_read_to_its_end_costs_its_connection(
    upstream, connections, reply_with
):
    upstream.reply = lambda request: reply_with(200, b"x" * 10_000_000)
    pool = connections()
    response = await pool.handle_async_request(httpx.Request("GET", upstream.url))
    await response.aclose()
    await upstream.quiet()
    await response.aclose()
    assert (len(pool._idle), pool._busy) == (0, set())
    await pool.aclose()


async def test_cancelling_at_any_step_leaves_no_socket_behind(upstream, connections):
    pool = connections()
    for steps in range(120):
        task = asyncio.create_task(fetch(pool, upstream.url))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert pool._busy == set()
    await pool.aclose()
    await upstream.quiet()
    gc.collect()  # a forgotten socket would warn, and warnings are errors


async def test_closing_ends_what_is_in_use(upstream, connections, reply_with):
    upstream.reply = lambda request: reply_with(200, b"x" * 10_000_000)
    pool = connections()
    response = await pool.handle_async_request(httpx.Request("GET", upstream.url))
    await pool.aclose()
    await upstream.quiet()
    await response.aclose()
    assert (len(pool._idle), pool._busy) == (0, set())


async def test_closing_while_opening_leaves_nothing_open(connect):
    client = connect()
    opening = asyncio.create_task(client.__aenter__())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosedError):
        await opening
