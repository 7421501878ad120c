"""Connections that survive cancellation."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from common.clients._config import ClientConfig


class Connection(httpx.AsyncHTTPTransport):
    """A pool for one connection, which ends with it.

    Args:
        tls: See `Connections`.
        idle_seconds: How long it is of use after a request.
    """

    def __init__(self, tls: ssl.SSLContext, idle_seconds: float) -> None:
        limits = httpx.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=idle_seconds
        )
        super().__init__(verify=tls, trust_env=False, limits=limits)
        self._socket: Any = None

    @property
    def left_over(self) -> bool:
        """Whether more came than the answer, or that cannot be told.

        What is behind an answer, such as a body sent with that to HEAD, would be taken for the
        answer to the next request. httpcore lets that happen, and has no public way to see it.
        """
        try:
            pool: Any = self._pool
            return any(each._connection._h11_state.trailing_data[0] for each in pool.connections)  # noqa: SLF001
        except AttributeError:
            return True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        if request.url.scheme == "https":
            request.extensions["trace"] = self._traced
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        """Close it, and the socket too if it was cancelled before TLS was there.

        httpcore then forgets the socket, and it would stay open as long as the other side is.
        """
        try:
            await super().aclose()
        finally:
            if self._socket is not None:
                await self._socket.aclose()

    async def _traced(self, event: str, facts: dict[str, Any]) -> None:
        # https://www.encode.io/httpcore/extensions/#trace
        if event == "connection.connect_tcp.complete":
            self._socket = facts["return_value"]


class Connections(httpx.AsyncBaseTransport):
    """Sends requests over connections of which each is on its own.

    httpx's pool loses connections whose request is cancelled at certain points, until none is
    left (encode/httpcore#1093, in every release). So here each connection has a pool to itself:
    whichever did not end well is thrown away with all that is in it. How many there are is
    bounded by the bulkhead.

    Args:
        config: Of the client.
        tls: Whom to trust, and with which certificate to answer; ``None``: public authorities.
    """

    def __init__(self, config: ClientConfig, tls: ssl.SSLContext | None = None) -> None:
        self._limits = config.limits
        # Only configuration reads the environment.
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._home = _origin(httpx.URL(config.base_url))
        self._idle: deque[tuple[float, Connection]] = deque()
        self._busy: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the connection used last, or a new one."""
        connection = self._take(request)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await self._discard(connection)
            raise
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101
        response.stream = _Body(stream, self, connection, keep=_origin(request.url) == self._home)
        return response

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        left = [*(connection for _, connection in self._idle), *self._busy]
        self._idle.clear()
        for connection in left:
            await self._discard(connection)
        while self._closing:
            await asyncio.wait(self._closing)

    async def give_back(self, connection: Connection, *, keep: bool) -> None:
        """Keep a connection for later, or close it."""
        full = len(self._idle) >= self._limits.max_idle_connections
        if not keep or full or connection.left_over:
            await self._discard(connection)
        elif connection in self._busy:
            self._busy.discard(connection)
            self._idle.append((time.monotonic(), connection))

    def _take(self, request: httpx.Request) -> Connection:
        oldest = time.monotonic() - self._limits.idle_seconds
        while self._idle and self._idle[0][0] < oldest:
            self._close(self._idle.popleft()[1])
        if self._idle and _origin(request.url) == self._home:
            connection = self._idle.pop()[1]
        else:
            connection = Connection(self._tls, self._limits.idle_seconds)
        self._busy.add(connection)
        return connection

    async def _discard(self, connection: Connection) -> None:
        self._busy.discard(connection)
        await asyncio.shield(self._close(connection))

    def _close(self, connection: Connection) -> asyncio.Task[None]:
        task = asyncio.create_task(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closed)
        return task

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # a connection that cannot be closed is gone


class _Body(httpx.AsyncByteStream):
    """The body of an answer; its end decides what becomes of its connection."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        connections: Connections,
        connection: Connection,
        *,
        keep: bool,
    ) -> None:
        self._stream = stream
        self._connections = connections
        self._connection: Connection | None = connection
        self._keep = keep
        self._complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk
        self._complete = True

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        complete = False
        try:
            await self._stream.aclose()
            complete = self._complete
        finally:
            await self._connections.give_back(connection, keep=complete and self._keep)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
