"""Valkey."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from common.testing._binaries import valkey_server
from common.testing._errors import ServerError
from common.testing._process import ManagedProcess
from common.testing._wire import valkey

DATABASES = 16


class ValkeyServer(ManagedProcess):
    """A private Valkey server on 127.0.0.1.

    Args:
        port: Port to listen on; default: a free one, kept until `close`.
        password: Of the default user; default: a random one.
        append_only: Keep an append-only file, written before each reply, so that data survive
            `kill`. Without it the server starts empty, as a cache does.
        arguments: More arguments, such as ``("--maxmemory", "10mb")``.
        ready_timeout: Seconds until `start` gives up.
    """

    _memory = True

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        append_only: bool = False,
        arguments: Sequence[str] = (),
        ready_timeout: float = 30.0,
    ) -> None:
        super().__init__(name="Valkey", ready_timeout=ready_timeout)
        self._wanted_port = port
        self._password = password or secrets.token_hex(8)
        self._append_only = append_only
        self._more = list(arguments)
        self._program = Path()
        self.host = "127.0.0.1"
        self.port = port or 0

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://:{quote(self._password, safe='')}@{self.host}:{self.port}/0"

    def _bases(self) -> list[Path]:
        self._program = valkey_server()
        return super()._bases()

    async def _prepare(self) -> None:
        self.port = self._reserve(self._wanted_port)
        self._cwd = self.directory
        config = self.directory / "valkey.conf"
        config.touch(mode=0o600)
        quoted = self._password.replace("\\", "\\\\").replace('"', '\\"')
        # In a file, because every user of the machine can read a command line.
        config.write_text(
            f'requirepass "{quoted}"\nbind {self.host}\nport {self.port}\ndatabases {DATABASES}\n'
            f'save ""\nappendonly {"yes" if self._append_only else "no"}\n'
        )

    def _arguments(self) -> list[str]:
        return [str(self._program), str(self.directory / "valkey.conf"), *self._more]

    async def _check(self) -> bool:
        return await asyncio.to_thread(self._answers)

    def _answers(self) -> bool:
        try:
            with valkey(self.url) as client:
                return client.call("PING") == "PONG"
        except ServerError:  # not listening yet, or loading its file
            return False
