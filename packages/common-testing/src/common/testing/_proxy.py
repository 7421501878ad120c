"""A TCP proxy that misbehaves on request."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from common.testing import _guard
from common.testing._errors import ServerError
from common.testing._ports import check_port, port_error
from common.testing._pump import Faults, Pump

Direction = Literal["both", "upstream", "downstream"]

PORTS = {
    "postgresql": 5432,
    "postgres": 5432,
    "redis": 6379,
    "valkey": 6379,
    "nats": 4222,
    "http": 80,
}
RESET = struct.pack("ii", 1, 0)  # linger on, for zero seconds: closing sends RST
MAX_CONNECTIONS = 1024
PAUSE = 0.05  # seconds, when there are too many open files


@dataclass(eq=False)
class _Link:
    """One client connection and its connection to the server behind."""

    client: socket.socket
    upstream: socket.socket | None = None
    pumps: list[Pump] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def close(self, *, reset: bool) -> None:
        loop = asyncio.get_running_loop()
        for end in (self.client, self.upstream):
            if end is not None and end.fileno() >= 0:
                # A closed socket must not stay registered: its number will be given out again.
                loop.remove_reader(end)
                loop.remove_writer(end)
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.close()


class FaultProxy:
    """Listens on a port of 127.0.0.1 and passes connections on to a server, until told otherwise.

    Faults add up, act at once, also on open connections, and stay until `heal`. Where a fault
    has a direction, ``upstream`` is from client to server, ``downstream`` from server to client.

    Args:
        upstream: The server: a URL, ``"host:port"``, or host and port.
        port: Port to listen on; default: a free one.

    >>> async def main():
    ...     async with FaultProxy("redis://:secret@127.0.0.1:6379/0", port=16379) as proxy:
    ...         return proxy.url("redis://:secret@127.0.0.1:6379/0")
    >>> asyncio.run(main())
    'redis://:secret@127.0.0.1:16379/0'
    """

    def __init__(self, upstream: str | tuple[str, int], *, port: int | None = None) -> None:
        self._upstream = _address(upstream) if isinstance(upstream, str) else upstream
        self._wanted_port = port or 0
        self._faults = {"upstream": Faults(), "downstream": Faults()}
        self._links: set[_Link] = set()
        self._holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None
        self.host = "127.0.0.1"
        self.port = self._wanted_port
        self.accepted = 0
        """Connections accepted so far."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ServerError: The port is taken, or no port.
        """
        if self._holder is not None:
            return
        check_port(self._wanted_port)
        try:
            self._holder = _guard.bind_port(self._wanted_port, self.host)
            self.port = self._holder.getsockname()[1]
            if not _guard.LINUX:  # see bind_port
                self._holder.close()
            self._listen()
        except OSError as error:
            await self.close()
            raise port_error(self._wanted_port, error.strerror or str(error)) from error

    async def close(self) -> None:
        """Stop listening and close all connections. Idempotent."""
        self.refuse()
        tasks = [link.task for link in self._links if link.task is not None]
        self.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def url(self, server_url: str) -> str:
        """The same URL, leading through the proxy."""
        parts = urlsplit(server_url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{self.host}:{self.port}"))

    # Faults

    def delay(self, seconds: float, *, direction: Direction = "both") -> None:
        """Deliver every byte that many seconds later; the throughput stays."""
        self._set(direction, lambda faults: setattr(faults, "delay", seconds))

    def throttle(self, bytes_per_second: float, *, direction: Direction = "both") -> None:
        """Limit the throughput of each connection.

        Raises:
            ValueError: The rate is not positive; to stop all bytes, use `stall`.
        """
        if bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be positive; to stop all bytes, use stall()")
        self._set(direction, lambda faults: setattr(faults, "rate", bytes_per_second))

    def stall(self, *, direction: Direction = "both") -> None:
        """Hold all bytes back until `heal`, then deliver them: a network that comes back."""
        self._set(direction, lambda faults: setattr(faults, "stalled", True))

    def drop(self, *, direction: Direction = "both") -> None:
        """Swallow all bytes silently, ends of connections included: a black hole.

        A stream with a hole cannot go on, so `heal` resets the connections that lost bytes.
        """
        self._set(direction, lambda faults: setattr(faults, "dropping", True))

    def cut(self, *, reset: bool = True) -> None:
        """Close all open connections now, with RST, or with FIN when `reset` is false."""
        for link in list(self._links):
            self._close(link, reset=reset)

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); open ones go on."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def heal(self) -> None:
        """End all faults."""
        for link in list(self._links):
            if any(pump.lost for pump in link.pumps):
                self._close(link, reset=True)
        for faults in self._faults.values():
            faults.clear()
        if self._holder is not None and self._listener is None:
            self._listen()

    # Counters

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    @property
    def bytes_sent(self) -> int:
        """Bytes delivered to the server."""
        return self._faults["upstream"].delivered

    @property
    def bytes_received(self) -> int:
        """Bytes delivered to clients."""
        return self._faults["downstream"].delivered

    # Machinery

    def _set(self, direction: Direction, change: Callable[[Faults], None]) -> None:
        for name, faults in self._faults.items():
            if direction in ("both", name):
                change(faults)
                faults.changed()

    def _listen(self) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(128)
            listener.settimeout(0)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._watch(listener)

    def _watch(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        # By no task: cancelled in the wrong moment, that would lose what it has just accepted.
        loop = asyncio.get_running_loop()
        try:
            client, _ = listener.accept()
        except BlockingIOError:  # a client that has gone again
            return
        except OSError:  # too many open files
            loop.remove_reader(listener)
            self._pause = loop.call_later(PAUSE, self._watch, listener)
            return
        self.accepted += 1
        link = _Link(client)
        if len(self._links) >= MAX_CONNECTIONS:
            link.close(reset=True)
            return
        client.settimeout(0)
        self._links.add(link)
        link.task = loop.create_task(self._serve(link))

    async def _serve(self, link: _Link) -> None:
        try:
            link.upstream = await _connect(self._upstream)
            for end in (link.client, link.upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.pumps = [
                Pump(link.client, link.upstream, self._faults["upstream"]),
                Pump(link.upstream, link.client, self._faults["downstream"]),
            ]
            async with asyncio.TaskGroup() as tasks:
                for pump in link.pumps:
                    tasks.create_task(pump.run())
        except* OSError:  # one side is gone: so goes the other
            link.close(reset=True)
        finally:
            link.close(reset=False)
            self._links.discard(link)

    def _close(self, link: _Link, *, reset: bool) -> None:
        if link.task is not None:
            link.task.cancel()
        link.close(reset=reset)
        self._links.discard(link)


async def _connect(address: tuple[str, int]) -> socket.socket:
    loop = asyncio.get_running_loop()
    host, port = address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    upstream = socket.socket(found[0][0], socket.SOCK_STREAM)
    upstream.settimeout(0)
    try:
        await loop.sock_connect(upstream, found[0][4])
    except BaseException:
        upstream.close()
        raise
    return upstream


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(text if "://" in text else f"//{text}")
    with contextlib.suppress(ValueError):
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
        if parts.hostname and port:
            return parts.hostname, port
    raise ServerError(f"{parts.hostname or text!r} has no port: give a URL or 'host:port'")
