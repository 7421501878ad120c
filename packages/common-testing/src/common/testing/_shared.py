"""Servers that the processes of one test session share.

Whoever makes the server's directory first starts the server and writes down its URL; the
others wait for that file. Each holds the directory's lock (see `_guard`), so the locks are
the reference count, and the kernel keeps it.
"""

# ruff: noqa: SLF001 - these are friends of the servers that they put together

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.testing import _guard
from common.testing._client import hold
from common.testing._errors import ServerError
from common.testing._process import ManagedProcess

URL_FILE = "url"
WAIT = 120.0  # seconds for another process to start the server
ABANDONED = 3.0  # seconds after which a directory without URL and lock holder has no starter


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running server that others use, too.

    Attributes:
        url: For its administrator.
        host: Where it listens.
        port: Where it listens.
    """

    url: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "ServerInfo":
        """Take host and port from a URL."""
        parts = urlsplit(url)
        return cls(url, parts.hostname or "", parts.port or 0)

    def __repr__(self) -> str:
        return f"ServerInfo(host={self.host!r}, port={self.port})"


class SharedServer:
    """This process's share of a server.

    Args:
        server: Used if nobody in the session has started one yet.
        key: Names the session and the server.
        base: Where its directory is made, the same in all processes of the session; default:
            chosen now.
    """

    def __init__(self, server: ManagedProcess, key: str, base: Path | None = None) -> None:
        self._server = server
        self._base = base
        self._key = key
        self._lock = -1
        self._started = False
        self.directory = Path()

    async def join(self) -> str:
        """Start the server or wait until another process has; returns its URL.

        Raises:
            ServerError: It does not start.
        """
        base = self._base or self._server._bases()[0]
        self._server._shared_name, self._server._shared_base = self._key, base
        self.directory = base / f"{_guard.PREFIX}{self._key}"
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            if not self.directory.exists() and await self._start():
                break
            with contextlib.suppress(FileNotFoundError):
                url = (self.directory / URL_FILE).read_text()
                self._lock = hold(self.directory)
                return url
            with contextlib.suppress(OSError):  # in use, or gone
                if not (self.directory / URL_FILE).exists():
                    _guard.remove_litter(str(self.directory), ABANDONED)
            await asyncio.sleep(0.02)
        else:
            raise ServerError(
                f"{self._server.name}: another process of this session did not start it within "
                f"{WAIT:g} s"
            )
        return (self.directory / URL_FILE).read_text()

    async def _start(self) -> bool:
        server = self._server
        try:
            if not await server._launch():
                return False
            await server._run()
            draft = self.directory / f"{URL_FILE}.draft"
            draft.touch(mode=0o600)
            draft.write_text(server.url)  # type: ignore[attr-defined]
            draft.replace(self.directory / URL_FILE)
        except BaseException:
            await server.close()
            raise
        self._started = True
        return True

    def leave(self) -> None:
        """Give up this share; the server ends with the last one. Idempotent."""
        if self._started:
            self._server._client.leave()
            self._server._guard = None
            self._started = False
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
