"""One direction of a proxied connection."""

import asyncio
import contextlib
import socket
from collections import deque

BUFFER = 1 << 20  # bytes in flight in one direction; the sender waits beyond them
CHUNK = 1 << 16
SLICES = 20  # a second, when throttled


class Faults:
    """What happens to one direction; shared by its pumps, which wake up when it changes."""

    def __init__(self) -> None:
        self.delivered = 0
        self._event = asyncio.Event()
        self._reset()

    def _reset(self) -> None:
        self.delay = 0.0
        self.rate = 0.0
        self.stalled = False
        self.dropping = False

    def clear(self) -> None:
        """End all faults."""
        self._reset()
        self.changed()

    def changed(self) -> None:
        """Wake up all who wait."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None) -> None:
        """Wait for a change, at most that many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Pump:
    """Moves bytes from one socket to another, through the faults of the moment."""

    def __init__(self, source: socket.socket, target: socket.socket, faults: Faults) -> None:
        self._source = source
        self._target = target
        self._faults = faults
        self._chunks: deque[tuple[float, bytes]] = deque()  # time of arrival, bytes
        self._held = 0
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self.lost = False
        """Whether bytes were swallowed."""

    async def run(self) -> None:
        """Move bytes until the source ends and all is delivered.

        Raises:
            OSError: A side is gone.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._held >= BUFFER:
                self._left.clear()
                await self._left.wait()
            try:
                data = await loop.sock_recv(self._source, CHUNK)
            except ConnectionError:
                if not self._faults.dropping:
                    raise
                data = b""  # swallowed like any other end
            self._chunks.append((loop.time(), data))
            self._held += len(data)
            self._arrived.set()
            if not data:
                return

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        faults = self._faults
        while True:
            while not self._chunks:
                self._arrived.clear()
                await self._arrived.wait()
            arrived, data = self._chunks[0]
            due = arrived + faults.delay - loop.time()
            if faults.stalled or due > 0:
                await faults.wait(None if faults.stalled else due)
                continue
            self._chunks.popleft()
            if faults.dropping:  # the end, too: nobody hears of it until the connection is cut
                self.lost = True
            elif not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            else:
                data = await self._send(data)
                if data:  # the rest waits for what the faults say now
                    self._chunks.appendleft((arrived, data))
                    continue
            self._held -= len(data)
            self._left.set()

    async def _send(self, data: bytes) -> bytes:
        """Send a part, as fast as allowed; returns the rest."""
        loop = asyncio.get_running_loop()
        faults = self._faults
        size = max(1, int(faults.rate / SLICES)) if faults.rate else len(data)
        part, rest = data[:size], data[size:]
        await loop.sock_sendall(self._target, part)
        faults.delivered += len(part)
        self._held -= len(part)
        self._left.set()
        if faults.rate:
            await faults.wait(len(part) / faults.rate)
        return rest
