import asyncio
import contextlib
import gc
import socket
import struct
import time

import pytest
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from common.testing import FaultProxy, ServerError, _pump

pytestmark = pytest.mark.timeout(60)


@contextlib.asynccontextmanager
async def echo():
    """A server that sends back what it gets, and the end of it."""
    ended = []

    async def serve(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            ended.append("end")
        except ConnectionError:
            ended.append("reset")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname(), ended


@contextlib.asynccontextmanager
async def connected(proxy):
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(reader, writer, text=b"hello"):
    writer.write(text)
    return await reader.readexactly(len(text))


async def is_silent(reader, seconds=0.2):
    try:
        await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return True
    return False


def held(proxy):
    """Bytes that are in the proxy."""
    return sum(pump._held for link in proxy._links for pump in link.pumps)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_it_passes_on_both_directions_and_counts():
    async with echo() as (address, _), FaultProxy(address) as proxy:
        async with connected(proxy) as (reader, writer):
            assert await ask(reader, writer) == b"hello"
            assert (proxy.connections, proxy.accepted) == (1, 1)
            assert (proxy.bytes_sent, proxy.bytes_received) == (5, 5)
        await until(lambda: proxy.connections == 0)
        assert proxy.accepted == 1


async def test_megabytes_pass_unharmed():
    data = bytes(range(256)) * 40_000
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data


async def test_the_end_of_one_direction_leaves_the_other_open():
    async with (
        echo() as (address, ended),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        writer.write(b"last words")
        writer.write_eof()
        assert await reader.read() == b"last words"
        assert ended == ["end"]


async def test_delay_adds_latency_to_its_direction_and_keeps_the_throughput():
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
        connected(proxy) as (other_reader, other_writer),
    ):
        proxy.delay(0.5, direction="downstream")
        begin = time.monotonic()
        for number in range(1, 21):
            writer.write(b"x" * 100)
            await until(lambda: proxy.bytes_received + held(proxy) >= 100 * number)  # noqa: B023
        assert await ask(other_reader, other_writer) == b"hello"
        assert time.monotonic() - begin >= 0.5
        assert proxy.bytes_received == 2005, "what came earlier must not wait one after the other"
        assert len(await reader.readexactly(2000)) == 2000
        proxy.delay(0.1)
        begin = time.monotonic()
        await ask(reader, writer)
        assert time.monotonic() - begin >= 0.2


async def test_heal_delivers_what_is_delayed_at_once():
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        proxy.delay(600)
        writer.write(b"hello")
        assert await is_silent(reader)
        proxy.heal()
        assert await reader.readexactly(5) == b"hello"


async def test_stall_holds_bytes_back_and_loses_none():
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        proxy.stall()
        writer.write(b"hel")
        assert await is_silent(reader)
        writer.write(b"lo")
        proxy.heal()
        assert await reader.readexactly(5) == b"hello"


async def test_a_stalled_sender_feels_back_pressure():
    async with echo() as (address, _), FaultProxy(address) as proxy:
        proxy.stall()
        loop = asyncio.get_running_loop()
        with socket.socket() as sender:
            sender.setblocking(False)
            await loop.sock_connect(sender, (proxy.host, proxy.port))
            sending = asyncio.create_task(loop.sock_sendall(sender, bytes(64 << 20)))
            await until(lambda: held(proxy) >= _pump.BUFFER)
            await asyncio.sleep(0.2)  # without back pressure it would go on
            assert held(proxy) < _pump.BUFFER + _pump.CHUNK
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])


@pytest.mark.parametrize("direction", ["both", "upstream", "downstream"])
async def test_drop_swallows_its_direction_and_heal_resets_who_lost_bytes(direction):
    async with echo() as (address, _), FaultProxy(address) as proxy:
        async with (
            connected(proxy) as (reader, writer),
            connected(proxy) as (idle_reader, idle_writer),
        ):
            await ask(reader, writer)
            await ask(idle_reader, idle_writer)
            proxy.drop(direction=direction)
            writer.write(b"lost")
            assert await is_silent(reader)
            assert proxy.bytes_sent == (14 if direction == "downstream" else 10)
            assert proxy.bytes_received == 10
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            assert await ask(idle_reader, idle_writer) == b"hello", "it lost nothing"
        async with connected(proxy) as (reader, writer):
            assert await ask(reader, writer) == b"hello"


@pytest.mark.parametrize("abort", [False, True], ids=["FIN", "RST"])
async def test_in_a_black_hole_nobody_hears_of_the_others_end(abort):
    async with echo() as (address, ended), FaultProxy(address) as proxy:
        async with connected(proxy) as (reader, writer):
            await ask(reader, writer)
            proxy.drop()
            if abort:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                writer.transport.abort()
        await asyncio.sleep(0.2)
        assert ended == []
        proxy.heal()
        await until(lambda: ended)
        assert ended == ["reset"]


async def test_cut_resets_or_ends_open_connections_and_lets_new_ones_in():
    async with echo() as (address, ended), FaultProxy(address) as proxy:
        async with connected(proxy) as (reader, writer):
            await ask(reader, writer)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        async with connected(proxy) as (reader, writer):
            await ask(reader, writer)
            proxy.cut(reset=False)
            assert await reader.read() == b""
        await until(lambda: ended == ["reset", "end"])
        async with connected(proxy) as (reader, writer):
            assert await ask(reader, writer) == b"hello"


@pytest.mark.parametrize("turns", range(5))
async def test_what_is_accepted_in_the_moment_of_a_refusal_is_not_forgotten(turns):
    async with echo() as (address, _), FaultProxy(address) as proxy:
        await asyncio.sleep(0.01)
        with socket.create_connection((proxy.host, proxy.port)):
            for _ in range(turns):
                await asyncio.sleep(0)
            proxy.refuse()
            proxy.cut()
            await asyncio.sleep(0.01)
    gc.collect()  # a socket that nobody closes warns, which is an error here


async def test_refuse_refuses_new_connections_and_keeps_open_ones_until_heal():
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        await ask(reader, writer)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        with pytest.raises(OSError), socket.socket() as thief:
            thief.bind((proxy.host, proxy.port))
        assert await ask(reader, writer) == b"hello"
        proxy.heal()
        async with connected(proxy) as (new_reader, new_writer):
            assert await ask(new_reader, new_writer) == b"hello"


async def test_throttle_limits_the_rate_and_heal_lets_go():
    async with (
        echo() as (address, _),
        FaultProxy(address) as proxy,
        connected(proxy) as (reader, writer),
    ):
        proxy.throttle(10_000, direction="upstream")
        begin = time.monotonic()
        writer.write(bytes(5_000))
        await reader.readexactly(5_000)
        assert time.monotonic() - begin >= 0.4
        proxy.throttle(1)
        writer.write(bytes(100_000))
        await asyncio.sleep(0.1)
        proxy.heal()
        await reader.readexactly(100_000)


async def test_a_rate_must_be_positive():
    with pytest.raises(ValueError, match="use stall"):
        FaultProxy("localhost:1").throttle(0)


async def test_an_unreachable_server_resets_the_client():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with FaultProxy(nobody.getsockname()) as proxy:
            with pytest.raises(ConnectionError):
                async with connected(proxy) as (reader, _):
                    await reader.readexactly(1)
            await until(lambda: proxy.connections == 0)


async def test_close_in_the_middle_of_every_fault_leaks_nothing():
    # Unclosed sockets and tasks fail the test run, through filterwarnings=error.
    for fault in ("delay", "stall", "drop", "throttle", "refuse", "cut", "heal"):
        async with echo() as (address, _):
            before = asyncio.all_tasks()
            proxy = FaultProxy(address)
            await proxy.start()
            async with connected(proxy) as (reader, writer):
                await ask(reader, writer)
                arguments = {"delay": [600], "throttle": [1]}.get(fault, [])
                getattr(proxy, fault)(*arguments)
                writer.write(bytes(100_000))
                await asyncio.sleep(0.02)
                await proxy.close()
                await proxy.close()
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1_000_000)
            assert proxy.connections == 0
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(proxy.host, proxy.port)
            await until(lambda: not (asyncio.all_tasks() - before))  # noqa: B023


async def test_cutting_and_connecting_in_turns_never_confuses_sockets():
    # The number of a closed socket is given out again at once.
    async with echo() as (address, _), FaultProxy(address) as proxy:
        for _ in range(50):
            async with connected(proxy) as (reader, writer):
                assert await ask(reader, writer) == b"hello"
                proxy.cut()
                async with connected(proxy) as (other_reader, other_writer):
                    assert await ask(other_reader, other_writer) == b"hello"


async def test_a_taken_port_is_one_line_that_says_what_to_do():
    async with echo() as ((_, port), _):
        with pytest.raises(ServerError, match=f"port {port} of 127.0.0.1 cannot be used"):
            await FaultProxy("localhost:1", port=port).start()


@pytest.mark.parametrize(
    ("upstream", "address"),
    [
        ("postgresql://u:p@db/x", ("db", 5432)),
        ("postgresql+asyncpg://u:p@db/x", ("db", 5432)),
        ("redis://h", ("h", 6379)),
        ("nats://u:p@h:1234", ("h", 1234)),
        ("h:99", ("h", 99)),
        ("[::1]:99", ("::1", 99)),
    ],
)
def test_the_upstream_is_a_url_or_host_and_port(upstream, address):
    assert FaultProxy(upstream)._upstream == address


@pytest.mark.parametrize("upstream", ["host", "", "host:port", "ftp://host"])
def test_an_upstream_without_port_is_refused(upstream):
    with pytest.raises(ServerError, match="has no port"):
        FaultProxy(upstream)


def test_urls_keep_everything_but_the_address():
    proxy = FaultProxy("h:1", port=7777)
    url = "postgresql://u:p%40@db.example:5432/x?sslmode=disable"
    assert proxy.url(url) == "postgresql://u:p%40@127.0.0.1:7777/x?sslmode=disable"
    assert proxy.url("nats://h") == "nats://127.0.0.1:7777"


async def test_a_real_client_reconnects_through_it(redis_url):
    retry = Retry(NoBackoff(), 3)
    async with (
        FaultProxy(redis_url) as proxy,
        redis.from_url(proxy.url(redis_url), retry=retry) as client,
    ):
        await client.set("key", "value")
        proxy.cut()
        assert await client.get("key") == b"value"
        proxy.drop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get("key"), 0.2)
        proxy.heal()
        assert await client.get("key") == b"value"
