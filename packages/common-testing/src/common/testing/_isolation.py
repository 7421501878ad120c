"""A clean place for each test on shared servers: Valkey databases and NATS accounts."""

import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from common.testing._errors import ServerError
from common.testing._valkey import DATABASES
from common.testing._wire import nats, valkey

ACCOUNTS = 256
LEASE = 3600  # seconds; renewed whenever a test asks for a database


class Keyspaces:
    """Databases of a Valkey server that belongs to this process. Database 0 is never given away.

    Args:
        url: Of the server's database 0.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._last = 0

    def acquire(self) -> str:
        """URL of an empty database, another one than the last test's."""
        self._last = self._last % (DATABASES - 1) + 1
        url = _with_database(self._url, self._last)
        _flush(url)
        return url

    def release(self, url: str) -> None:
        """Free its memory."""
        _flush(url)

    def close(self) -> None:
        """Nothing to do: the server goes."""


class LeasedKeyspaces(Keyspaces):
    """One database of a server that others use, with a lease in the URL's own database.

    Only databases that were empty, or that a session of ours left behind, are ever flushed.
    """

    def __init__(self, url: str, session: str) -> None:
        super().__init__(url)
        self._owner = f"{session}-{os.getpid()}"
        self._number = 0

    def acquire(self) -> str:
        """URL of our database, empty.

        Raises:
            ServerError: No database is free.
        """
        with valkey(self._url) as home:
            lease, mine = _lease_keys(self._number)
            if not self._number or home.call("GET", lease) != self._owner:
                self._number = self._claim(home.call)
                lease, mine = _lease_keys(self._number)
            home.call("SET", lease, self._owner, "EX", str(LEASE))
            home.call("SET", mine, self._owner)
        url = _with_database(self._url, self._number)
        _flush(url)
        return url

    def close(self) -> None:
        """Give our database back."""
        if self._number:
            with valkey(self._url) as home:
                home.call("DEL", *_lease_keys(self._number))

    def _claim(self, call: Callable[..., str | int | None]) -> int:
        home = urlsplit(self._url).path.strip("/") or "0"
        for number in range(1, DATABASES):
            lease, mine = _lease_keys(number)
            if (
                str(number) == home
                or call("SET", lease, self._owner, "NX", "EX", str(LEASE)) is None
            ):
                continue
            try:
                with valkey(_with_database(self._url, number)) as database:
                    if database.call("DBSIZE") == 0 or call("GET", mine) is not None:
                        return number
            except ServerError:  # it has fewer databases
                call("DEL", lease)
                break
            call("DEL", lease)
        raise ServerError(
            "COMMON_TESTING_REDIS_URL: no empty database is left there (1 to 15 were tried): "
            "flush one, or use another server"
        )


class Accounts:
    """Accounts of a NATS server that the processes of a session share.

    A process owns an account for as long as it locks one byte of a file; the kernel gives it
    back when the process dies.

    Args:
        url: The server's.
        directory: Where that file is.
        user: Prefix of the accounts' user names, which a number follows.
    """

    def __init__(self, url: str, directory: Path, user: str) -> None:
        self._url = url
        self._user = user
        self._file = os.open(directory / "accounts", os.O_RDWR | os.O_CREAT, 0o600)
        self._owned: dict[str, int] = {}
        self._next = random.randrange(ACCOUNTS)  # noqa: S311 - only to begin where others do not

    def acquire(self) -> str:
        """URL of an empty account.

        Raises:
            ServerError: All are in use.
        """
        for _ in range(ACCOUNTS):
            number = self._next = (self._next + 1) % ACCOUNTS
            if number in self._owned.values():  # our own lock would not stop us
                continue
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                continue
            url = self._account_url(number)
            self._owned[url] = number
            _empty(url)
            return url
        raise ServerError(f"all {ACCOUNTS} NATS accounts of this test session are in use")

    def release(self, url: str) -> None:
        """Delete its streams and give it back."""
        number = self._owned.pop(url)
        try:
            _empty(url)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give all accounts back."""
        os.close(self._file)

    def _account_url(self, number: int) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(
            parts._replace(
                netloc=f"{self._user}{number}:{parts.password}@{parts.hostname}:{parts.port}"
            )
        )


class OneAccount:
    """The account of a URL, as it is: we cannot make others on a server that is not ours."""

    def __init__(self, url: str) -> None:
        self._url = url

    def acquire(self) -> str:
        """The URL."""
        return self._url

    def release(self, url: str) -> None:
        """Nothing: what lies there may not be the test's."""

    def close(self) -> None:
        """Nothing."""


def _flush(url: str) -> None:
    with valkey(url) as client:
        client.call("FLUSHDB")


def _empty(url: str) -> None:
    with nats(url) as client:
        client.delete_streams()


def _lease_keys(number: int) -> tuple[str, str]:
    return f"common-testing:lease:{number}", f"common-testing:used:{number}"


def _with_database(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))
