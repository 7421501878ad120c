"""PostgreSQL."""

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.testing._binaries import postgres_bin
from common.testing._errors import ServerError
from common.testing._places import base_directory, can_run, copy_tree, unprivileged_user
from common.testing._process import ManagedProcess
from common.testing._psql import clean_environment, psql

USER = "postgres"
SETTINGS = {
    # A killed server loses nothing: committed is written. Only a crash of the machine would,
    # and there these data are gone anyway.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "io_method": "sync",  # worker processes cost start-up time
    "autovacuum_naptime": "10min",
    # POSIX shared memory would outlive a killed server, as files in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # their paths are limited to 107 bytes, ours are not
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer(ManagedProcess):
    """A private PostgreSQL server on 127.0.0.1.

    Run as root, the server itself runs as ``nobody``, because PostgreSQL refuses root.

    Args:
        port: Port to listen on; default: a free one, kept until `close`.
        password: Of the superuser ``postgres``; default: a random one.
        settings: Server settings (postgresql.conf), over our defaults. Those give up
            safety against a crash of the machine (``fsync=off``), not against `kill`.
        ready_timeout: Seconds until `start` gives up.
    """

    _stop_signal = signal.SIGINT  # "fast" shutdown: PostgreSQL documentation, 18.5
    _discard_signal = signal.SIGQUIT  # "immediate" shutdown
    _memory = True

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
        ready_timeout: float = 30.0,
    ) -> None:
        super().__init__(name="PostgreSQL", ready_timeout=ready_timeout)
        self._wanted_port = port
        self._password = password or secrets.token_hex(8)
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin = Path()
        self._user: tuple[int, int] | None = None
        self.host = "127.0.0.1"
        self.port = port or 0

    @property
    def url(self) -> str:
        """URL of the database ``postgres``, for its superuser."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """URL of a database of this server."""
        return (
            f"postgresql://{USER}:{quote(self._password, safe='')}"
            f"@{self.host}:{self.port}/{quote(database, safe='')}"
        )

    async def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run SQL through psql and return what it prints, one row a line, columns between tabs.

        Raises:
            ServerError: PostgreSQL's own message.
        """
        return await asyncio.to_thread(psql, self.database_url(database), sql)

    def _bases(self) -> list[Path]:
        self._bin = postgres_bin()
        self._user = unprivileged_user()
        everybody = self._user is not None
        bases = [base_directory(memory=True, everybody=everybody)]
        if not can_run(self._bin / "postgres", self._user):
            bases.append(base_directory(everybody=True, executable=True))
        return bases

    def _mode(self) -> int:
        return 0o700 if self._user is None else 0o711

    async def _prepare(self) -> None:
        if len(self._client.directories) > 1:
            self._bin = await asyncio.to_thread(
                _copy_programs, self._bin, self._client.directories[1]
            )
        self.port = self._reserve(self._wanted_port)
        data, password = self.directory / "data", self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(self._password + "\n")
        data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(data, *self._user)
            os.chown(password, *self._user)
        await self._spawn(
            [
                str(self._bin / "initdb"),
                f"--pgdata={data}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                # The default, 4096 rounds, protects stolen hashes and slows every connection.
                "--set=scram_iterations=1",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
                "--no-data-checksums",
                *(f"--set={name}={value}" for name, value in self._settings.items()),
            ]
        )
        if await self.wait(self._ready_timeout) != 0:
            raise ServerError(f"PostgreSQL's initdb failed{self._tail()}")
        password.unlink()

    def _arguments(self) -> list[str]:
        return [
            str(self._bin / "postgres"),
            "-D",
            str(self.directory / "data"),
            "-p",
            str(self.port),
        ]

    async def _spawn(self, arguments: list[str], **fields: Any) -> None:
        self._cwd = self.directory
        uid, gid = self._user or (None, None)
        pidfile = str(self.directory / "data" / "postmaster.pid")
        await super()._spawn(arguments, uid=uid, gid=gid, pidfile=pidfile, **fields)

    def _environment(self) -> dict[str, str]:
        return clean_environment()

    async def _check(self) -> bool:
        # The file that pg_ctl looks at, too: line 1 is the pid, line 8 the state.
        try:
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self._pid) and lines[7].strip() == "ready"


def _copy_programs(source: Path, directory: Path) -> Path:
    """Copy a PostgreSQL installation to where its own user can run it; returns the bin folder."""
    root = source.parent
    # The wheel keeps its libraries beside the package, and the programs look for them there.
    libraries = root.parent.with_name(root.parent.name + ".libs")
    package = directory / root.parent.name
    target = package / root.name
    package.mkdir()
    for name in ("lib", "share"):
        if (root / name).is_dir():
            copy_tree(root / name, target / name)
    (target / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("postgres", "initdb"):
        shutil.copy2(source / name, target / "bin" / name)
    if libraries.is_dir():
        copy_tree(libraries, directory / libraries.name)
    return target / "bin"
