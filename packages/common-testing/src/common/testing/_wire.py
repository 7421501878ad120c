"""Just enough of the wire protocols of Valkey and NATS to keep house, so that no driver is needed.

All calls block for as long as the server takes, at most `TIMEOUT` seconds a step.
"""

import json
import secrets
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

from common.testing._errors import ServerError

TIMEOUT = 10.0


@contextmanager
def _connection(
    parts: SplitResult, port: int, *, tls: bool
) -> Generator[tuple[socket.socket, BinaryIO]]:
    host = parts.hostname or "127.0.0.1"
    try:
        with socket.create_connection((host, parts.port or port), timeout=TIMEOUT) as connection:
            if tls:
                context = ssl.create_default_context()
                connection = context.wrap_socket(connection, server_hostname=host)  # noqa: PLW2901
            with connection, connection.makefile("rb") as reader:
                yield connection, reader
    except OSError as error:
        raise ServerError(
            f"cannot reach {host}:{parts.port or port} ({error.strerror or error}): "
            "is it running, is the URL right?"
        ) from error


# Valkey: https://valkey.io/topics/protocol/ (RESP 2)


@contextmanager
def valkey(url: str) -> Generator["Valkey"]:
    """A connection to a Valkey (or Redis) URL, logged in, on the URL's database.

    Raises:
        ServerError: It cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    with _connection(parts, 6379, tls=parts.scheme == "rediss") as (connection, reader):
        client = Valkey(connection, reader)
        if parts.password:
            user = [unquote(parts.username)] if parts.username else []
            client.call("AUTH", *user, unquote(parts.password))
        if database := parts.path.strip("/"):
            client.call("SELECT", database)
        yield client


class Valkey:
    """Sends commands and reads simple replies."""

    def __init__(self, connection: socket.socket, reader: BinaryIO) -> None:
        self._connection = connection
        self._reader = reader

    def call(self, *command: str) -> str | int | None:
        """Run a command whose reply is a status, a number or a string.

        Raises:
            ServerError: The server's error reply.
        """
        parts = [part.encode() for part in command]
        message = b"*%d\r\n" % len(parts) + b"".join(
            b"$%d\r\n%b\r\n" % (len(part), part) for part in parts
        )
        self._connection.sendall(message)
        line = self._reader.readline().rstrip().decode()
        kind, rest = line[:1], line[1:]
        if kind == "-":
            raise ServerError(f"Valkey refuses {command[0]}: {rest}")
        if kind == ":":
            return int(rest)
        if kind == "$":
            size = int(rest)
            return None if size < 0 else self._reader.read(size + 2)[:-2].decode()
        if kind == "+":
            return rest
        raise ServerError(f"this is not a Valkey server, it answers {line[:60]!r}")


# NATS: https://docs.nats.io/reference/reference-protocols/nats-protocol


@contextmanager
def nats(url: str) -> Generator["Nats"]:
    """A connection to a NATS URL.

    Raises:
        ServerError: It cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    with _connection(parts, 4222, tls=False) as (connection, reader):
        if not reader.readline().startswith(b"INFO "):
            raise ServerError(f"{parts.hostname}:{parts.port} is not a NATS server")
        yield Nats(connection, reader, unquote(parts.username or ""), unquote(parts.password or ""))


class Nats:
    """Requests with one JSON reply each."""

    def __init__(
        self, connection: socket.socket, reader: BinaryIO, user: str, password: str
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        if password:
            options |= {"user": user, "pass": password}
        elif user:
            options |= {"auth_token": user}
        connection.sendall(
            f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox} 1\r\nPING\r\n".encode()
        )
        while not self._line().startswith(b"PONG"):
            pass

    def request(self, subject: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        """Publish a request and return its reply.

        Raises:
            ServerError: Nobody answers, or the server reports an error.
        """
        body = json.dumps(payload).encode() if payload is not None else b""
        self._connection.sendall(
            f"PUB {subject} {self._inbox} {len(body)}\r\n".encode() + body + b"\r\n"
        )
        while True:
            words = self._line().split()
            if words[0] == b"MSG":
                reply: dict[str, Any] = json.loads(self._reader.read(int(words[-1]) + 2))
                return reply
            if words[0] == b"HMSG":  # headers only: status 503, no responders
                self._reader.read(int(words[-1]) + 2)
                raise ServerError(
                    f"nobody answers {subject}: is JetStream enabled for this account?"
                )

    def delete_streams(self) -> None:
        """Delete every stream of the account; key-value and object stores are streams, too."""
        while names := self.request("$JS.API.STREAM.NAMES").get("streams"):
            for name in names:
                self.request(f"$JS.API.STREAM.DELETE.{name}")

    def _line(self) -> bytes:
        while True:
            line = self._reader.readline()
            if line.startswith(b"PING"):
                self._connection.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                reason = line[4:].decode().strip() or "connection closed"
                raise ServerError(f"NATS refuses the connection: {reason}")
            else:
                return line
