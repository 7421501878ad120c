"""Over TLS, against servers whose certificates are made here."""

import asyncio
import datetime as dt
import ssl
import traceback
from typing import Any

import httpx
import pytest
import trustme

from common.clients import Limits, ServiceClient, ServiceKey
from common.errors import (
    AppError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
)

HOST = "127.0.0.1"
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trust(authority):
    """What a client is given that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def serve(upstream):
    """Serve with this certificate; what else was served before ends."""

    async def start(certificate, *, clients=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if clients is not None:
            clients.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        await upstream.stop()
        upstream.tls = context
        await upstream.start()

    return start


async def test_an_authority_of_ones_own_is_trusted_if_it_is_given(
    upstream, connect, serve, authority, trust
):
    await serve(authority.issue_cert(HOST))
    async with connect(tls=trust) as client:
        for _ in range(3):
            assert (await client.get("/a")).json() == {"ok": True}
    assert upstream.accepted == 1
    await upstream.quiet()


async def test_by_default_only_public_authorities_are_trusted(upstream, connect, serve, authority):
    await serve(authority.issue_cert(HOST))
    async with connect(auth=ServiceKey("canary"), retry=False) as client:
        with pytest.raises(ServiceUnavailableError, match="authority that tls= does not trust"):
            await client.post("/a", json={"canary": 1})
    assert upstream.requests == []


async def test_authorities_in_the_environment_are_not_trusted(
    upstream, connect, serve, authority, monkeypatch, tmp_path
):
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    await serve(authority.issue_cert(HOST))
    async with connect(retry=False) as client:
        with pytest.raises(ServiceUnavailableError, match="authority"):
            await client.get("/a")


@pytest.mark.parametrize(
    ("names", "validity", "why"),
    [
        (["10.9.8.7"], {}, "for another address"),
        (["other.internal"], {}, "for another address"),
        ([HOST], {"not_before": -3, "not_after": -1}, "has expired"),
        ([HOST], {"not_before": 1, "not_after": 3}, "not valid yet"),
    ],
    ids=["address", "name", "expired", "early"],
)
async def test_a_bad_certificate_is_named_and_nothing_is_sent(
    upstream, connect, serve, authority, trust, names, validity, why
):
    now = dt.datetime.now(dt.UTC)
    dates = {name: now + days * DAY for name, days in validity.items()}
    await serve(authority.issue_cert(*names, **dates))
    async with connect(tls=trust, auth=ServiceKey("canary")) as client:
        with pytest.raises(ServiceUnavailableError, match=why) as raised:
            await client.get("/a")
    assert isinstance(raised.value.__cause__, httpx.ConnectError)
    assert "canary" not in "".join(traceback.format_exception(raised.value))
    assert upstream.requests == []


async def test_a_certificate_for_another_name_is_named(upstream, connect, serve, authority, trust):
    await serve(authority.issue_cert("billing.internal"))
    async with connect(f"https://localhost:{upstream.port}", tls=trust, retry=False) as client:
        with pytest.raises(ServiceUnavailableError, match="for another host"):
            await client.get("/a")
    assert upstream.requests == []


async def test_who_speaks_no_tls_is_named(connect):
    async def plain(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(plain, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with connect(f"https://{HOST}:{port}", retry=False) as client:
        with pytest.raises(ServiceUnavailableError, match="there is no TLS with it"):
            await client.get("/a")
    server.close()
    await server.wait_closed()


async def test_who_never_answers_the_handshake_ends_with_the_connect_timeout(connect):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with connect(f"https://{HOST}:{port}", connect_timeout=0.05, retry=False) as client:
        with pytest.raises(RequestTimeoutError, match="did not connect in time"):
            await client.get("/a")
    server.close()
    await server.wait_closed()


async def test_the_client_shows_its_certificate_to_who_asks(
    upstream, connect, serve, authority, trust
):
    await serve(authority.issue_cert(HOST), clients=authority)
    async with connect(tls=trust, retry=False) as client:
        with pytest.raises(AppError) as raised:  # TLS 1.3 says so only after the handshake
            await client.get("/a")
    assert isinstance(raised.value, UpstreamServiceError | ServiceUnavailableError)
    assert upstream.requests == []
    authority.issue_cert("orders.internal").configure_cert(trust)
    async with connect(tls=trust) as client:
        assert (await client.get("/a")).json() == {"ok": True}


async def test_bytes_changed_on_the_way_are_a_broken_connection(
    upstream, connect, serve, authority, trust, reply_with
):
    await serve(authority.issue_cert(HOST))
    upstream.reply = lambda request: reply_with(200, b"x" * 1_000_000)
    passed = 0
    ended = asyncio.Semaphore(0)

    async def copy(reader, writer, *, change):
        nonlocal passed
        while data := await reader.read(65536):
            if change:
                passed += len(data)
                if passed > 300_000:
                    data = data[:-1] + bytes([data[-1] ^ 1])
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader, writer):
        there, back = await asyncio.open_connection(HOST, upstream.port)
        both = [
            asyncio.create_task(copy(reader, back, change=False)),
            asyncio.create_task(copy(there, writer, change=True)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        back.close()
        ended.release()

    proxy = await asyncio.start_server(forward, HOST, 0)
    port = proxy.sockets[0].getsockname()[1]
    async with connect(f"https://{HOST}:{port}", tls=trust, retry=False) as client:
        with pytest.raises(UpstreamServiceError, match="connection broke") as raised:
            await client.get("/a")
        assert raised.value.retryable
        passed = 0
        async with client.stream("GET", "/a") as response:
            with pytest.raises(UpstreamServiceError, match="connection broke"):
                _ = [piece async for piece in response.iter_bytes()]
        assert (client.bulkhead.active, client.breaker.snapshot().failures) == (0, 1)
    proxy.close()
    await upstream.stop()
    for _ in range(2):
        await ended.acquire()


async def test_a_redirect_from_https_to_http_is_refused_on_a_real_connection(
    upstream, other, connect, serve, authority, trust, reply_with
):
    await serve(authority.issue_cert(HOST))
    upstream.reply = lambda request: reply_with(302, location=f"{other.url}/b")
    async with connect(tls=trust, follow_redirects=3) as client:
        with pytest.raises(UpstreamServiceError, match="https to http"):
            await client.get("/a")
    assert other.requests == []


async def test_cancelling_at_any_step_of_a_handshake_leaks_nothing(
    upstream, connect, serve, authority, trust
):
    await serve(authority.issue_cert(HOST))
    limits = Limits(max_concurrency=1, max_queue=0, max_idle_connections=0)
    async with connect(tls=trust, limits=limits) as client:
        finished = 0
        for steps in range(300):
            task = asyncio.create_task(client.get("/a"))
            for _ in range(steps):
                await asyncio.sleep(0)
            finished += task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (client.bulkhead.active, client._running) == (0, set())
            if finished >= 3:
                break
        await upstream.quiet()
        assert (await client.get("/a")).status == 200


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls": "ca.pem"}, "tls: give an ssl.SSLContext"),
        ({"tls": True, "base_url": "http://billing"}, "tls: .* http://"),
        ({"tls": True, "transport": True}, "tls: .* transport="),
    ],
)
def test_a_context_that_would_not_be_used_is_refused(options, why, trust):
    given: dict[str, Any] = {"base_url": "https://billing", **options}
    if given["tls"] is True:
        given["tls"] = trust
    if "transport" in given:
        given["transport"] = httpx.MockTransport(lambda request: httpx.Response(200))
    with pytest.raises(ValueError, match=why):
        ServiceClient("billing", **given)
