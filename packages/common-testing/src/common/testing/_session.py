"""What the fixtures of one process have of the session's servers."""

import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from common.testing._background import run
from common.testing._databases import Databases
from common.testing._errors import ServerError
from common.testing._isolation import ACCOUNTS, Accounts, Keyspaces, LeasedKeyspaces, OneAccount
from common.testing._nats import USER, NatsServer
from common.testing._postgres import PostgresServer
from common.testing._process import ManagedProcess
from common.testing._psql import psql
from common.testing._shared import ServerInfo, SharedServer
from common.testing._valkey import ValkeyServer
from common.testing._wire import nats, valkey

POSTGRES_URL = "COMMON_TESTING_POSTGRES_URL"
REDIS_URL = "COMMON_TESTING_REDIS_URL"
NATS_URL = "COMMON_TESTING_NATS_URL"


class Session:
    """Opens servers and places on them, for the fixtures.

    Args:
        key: Hexadecimal; the same in all processes of a test session, and in no other.
        external: Use the servers named in the environment.
        base: Where the shared servers keep their files; default: chosen when they start.
    """

    def __init__(self, key: str, *, external: bool, base: Path | None = None) -> None:
        self._base = base
        self._key = key
        self._external = external
        self._nats_directory = Path()

    @contextmanager
    def postgres(self) -> Generator[ServerInfo]:
        """The session's PostgreSQL."""
        if self._external:
            url = _external_url(POSTGRES_URL)
            with _blaming(POSTGRES_URL):
                psql(url, "SELECT 1")
            yield ServerInfo.of(url)
        else:
            with self._shared(PostgresServer(), "postgres") as (_, info):
                yield info

    @contextmanager
    def valkey(self) -> Generator[ServerInfo]:
        """This process's Valkey: its channels, scripts and FLUSHALL know no databases."""
        if self._external:
            url = _external_url(REDIS_URL)
            with _blaming(REDIS_URL), valkey(url) as client:
                client.call("PING")
            yield ServerInfo.of(url)
        else:
            server = ValkeyServer()
            try:
                run(server.start())
                yield ServerInfo.of(server.url)
            finally:
                run(server.close())

    @contextmanager
    def nats(self) -> Generator[ServerInfo]:
        """The session's NATS."""
        if self._external:
            url = _external_url(NATS_URL)
            with _blaming(NATS_URL), nats(url):
                pass
            yield ServerInfo.of(url)
        else:
            with self._shared(NatsServer(accounts=ACCOUNTS), "nats") as (
                self._nats_directory,
                info,
            ):
                yield info

    @contextmanager
    def databases(self, server: ServerInfo) -> Generator[Databases]:
        """Fresh databases on the session's PostgreSQL."""
        with closing(Databases(server.url, self._key, external=self._external)) as databases:
            yield databases

    @contextmanager
    def keyspaces(self, server: ServerInfo) -> Generator[Keyspaces]:
        """Empty databases on this process's Valkey."""
        chosen = LeasedKeyspaces(server.url, self._key) if self._external else Keyspaces(server.url)
        with closing(chosen):
            yield chosen

    @contextmanager
    def accounts(self, server: ServerInfo) -> Generator[Accounts | OneAccount]:
        """Empty accounts on the session's NATS."""
        if self._external:
            yield OneAccount(server.url)
            return
        with closing(Accounts(server.url, self._nats_directory, USER)) as accounts:
            yield accounts

    @contextmanager
    def _shared(self, server: ManagedProcess, name: str) -> Generator[tuple[Path, ServerInfo]]:
        share = SharedServer(server, f"{self._key}-{name}", self._base)
        try:
            url = run(share.join())
            yield share.directory, ServerInfo.of(url)
        finally:
            share.leave()


def _external_url(variable: str) -> str:
    url = os.environ.get(variable)
    if not url:
        raise ServerError(f"--services=external needs the server's URL: set {variable}")
    return url


@contextmanager
def _blaming(variable: str) -> Generator[None]:
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{variable}: {error}") from error
