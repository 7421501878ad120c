"""Another service, on a real socket, that misbehaves as it is told."""

import asyncio
import inspect
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.clients import Backoff, Limits, Retry, RetryBudget, ServiceClient


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, list[str]]
    body: bytes = b""

    def header(self, name):
        return ", ".join(self.headers.get(name.lower(), []))


def answer(status=200, body: Any = b"", *, chunked=False, **headers):
    """An HTTP/1.1 response; header names with ``_`` for ``-``."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("content_type", "application/json")
    lines = [f"HTTP/1.1 {status} Whatever"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if chunked:
        lines.append("transfer-encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif "content_length" not in headers:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Upstream:
    """Answers each request with ``reply(request)``: bytes, or a coroutine that takes the writer."""

    reply: Callable[..., Any] = lambda request: answer(200, {"ok": True})
    requests: list[Received] = field(default_factory=list)
    accepted: int = 0
    open: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    tls: ssl.SSLContext | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self):
        self.server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=2**20, backlog=2000, ssl=self.tls
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self):
        if self.server:
            self.server.close()
            for writer in list(self.writers):
                writer.transport.abort()
            await self.server.wait_closed()
            self.server = None

    async def _serve(self, reader, writer):
        self.accepted += 1
        self.open += 1
        self.writers.add(writer)
        try:
            while True:
                request = await self._read(reader)
                self.requests.append(request)
                reply = self.reply(request)
                if inspect.iscoroutinefunction(reply):
                    await self._run(reply(writer), reader)
                elif reply is None:
                    return
                else:
                    writer.write(reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self.writers.discard(writer)
            writer.close()

    async def _run(self, reply, reader):
        """Answer until the client goes away."""
        task = asyncio.create_task(reply)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.005)
                if reader.at_eof() or reader.exception():
                    return
            await task
        finally:
            task.cancel()

    async def _read(self, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers: dict[str, list[str]] = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        request = Received(method, target, headers)
        if "transfer-encoding" in headers:
            while size := int(await reader.readline(), 16):
                request.body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        elif "content-length" in headers:
            request.body = await reader.readexactly(int(headers["content-length"][0]))
        return request

    async def quiet(self):
        """Wait until no connection is open."""
        async with asyncio.timeout(60):
            while self.open:
                await asyncio.sleep(0.001)


@pytest.fixture
async def upstream():
    server = Upstream()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def other():
    server = Upstream()
    await server.start()
    yield server
    await server.stop()


def patient(**options):
    """A policy that waits next to nothing."""
    options.setdefault("backoff", Backoff(first=0.0001, maximum=0.0001))
    return Retry(**options)


@pytest.fixture
def connect(upstream):
    """Make a client of the upstream; by default its times are none that a slow machine misses."""

    def client(url=None, **options):
        options.setdefault("timeout", 60)
        options.setdefault("connect_timeout", 60)
        options.setdefault("limits", Limits(idle_seconds=60))
        options.setdefault("retry", patient(budget=RetryBudget(min_per_second=1000)))
        return ServiceClient("billing", base_url=url or upstream.url, **options)

    return client


@pytest.fixture
def skip(monkeypatch):
    """Move on the clock, which timers and deadlines go by, by so many seconds."""
    real, ahead = time.monotonic, 0.0

    def move(seconds):
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    return move


@pytest.fixture
def reply_with():
    return answer


@pytest.fixture
def policy():
    return patient


class Operations:
    def __init__(self):
        self.ended: list[Any] = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.ended.append(
            (op.kind, op.name, op.outcome, op.error_code, dict(op.attributes), op.context)
        )
