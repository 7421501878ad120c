"""A proxy that reads PostgreSQL's protocol and counts statements and round trips."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit


class WireCounter:
    """Counts messages by their type (PostgreSQL documentation, 54.7): the client's ``Q``, ``P``,
    ``B`` and ``E``, and the server's ``Z``, ReadyForQuery, with which each round trip ends.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._upstream = parts.hostname, parts.port
        self._url = parts
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        host = self._url.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
        self.url = self._url._replace(netloc=host, query="sslmode=disable").geturl()
        self._tasks: set[asyncio.Task[Any]] = set()
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        self.sent.clear()
        self.received.clear()

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        try:
            length = await reader.readexactly(4)  # the start-up message has no type
            upstream_writer.write(length)
            upstream_writer.write(await reader.readexactly(int.from_bytes(length, "big") - 4))
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await asyncio.gather(
                    self._pump(reader, upstream_writer, self.sent),
                    self._pump(upstream_reader, writer, self.received),
                )
        finally:
            writer.close()
            upstream_writer.close()

    async def _pump(self, reader, writer, counter):
        while True:
            head = await reader.readexactly(5)
            counter[chr(head[0])] += 1
            writer.write(head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4))
            await writer.drain()
