"""Bounds for what a client may send, and how slowly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from common.api._checks import number
from common.api._state import header_values
from common.api._views import HTTPError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What was not read of the request must not be taken for the next one.
_CLOSE = {"Connection": "close"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds for one request; ``None`` takes one away.

    The server has bounds of its own, and what is beyond those never comes here: uvicorn may
    answer more than 64 KiB of headers with a bare 400.

    Attributes:
        max_body: Bytes of the body, as they come in (413).
        max_headers: Number of headers (431).
        max_header_bytes: Bytes of all names and values (431).
        max_url: Bytes of path and query string (414).
        chunk_timeout: Seconds between two pieces of the body (408).
        body_timeout: Seconds from when the body is first waited for until its end (408).
        write_timeout: Seconds until a piece of a streamed response is taken; then the handler is
            let go, and the server closes the connection as it can.

    Raises:
        ValueError: If one is no number above 0.
    """

    max_body: int | None = 1024 * 1024
    max_headers: int | None = 100
    max_header_bytes: int | None = 32 * 1024
    max_url: int | None = 8 * 1024
    chunk_timeout: float | None = 10.0
    body_timeout: float | None = 60.0
    write_timeout: float | None = 60.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                number(each.name, value, above=0)


class LimitsMiddleware:
    """Refuses requests beyond `Limits`.

    Args:
        app: What it wraps.
        limits: The bounds.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits | None = None) -> None:
        self.app = app
        self._limits = limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self._check_head(scope)
        if scope["type"] == "http":
            if self._check_length(scope):
                receive = _Body(self._limits, receive).receive
            send = self._hurried(send)
        await self.app(scope, receive, send)

    def _hurried(self, send: Send) -> Send:
        seconds = self._limits.write_timeout
        if seconds is None:
            return send
        streaming = False

        async def sending(message: Message) -> None:
            nonlocal streaming
            streaming = streaming or message.get("more_body", False)
            if not streaming:  # the server takes a single body whole
                await send(message)
                return
            timeout = asyncio.timeout(seconds)
            try:
                async with timeout:
                    await send(message)
            except TimeoutError:
                if not timeout.expired():
                    raise
                raise ClientDisconnect("the client does not read") from None

        return sending

    def _check_head(self, scope: Scope) -> None:
        limits, headers = self._limits, scope["headers"]
        if limits.max_headers is not None and len(headers) > limits.max_headers:
            raise _refusal(431, "TOO_MANY_HEADERS", f"At most {limits.max_headers} headers")
        if limits.max_header_bytes is not None:
            size = 0
            for name, value in headers:
                size += len(name) + len(value)
            if size > limits.max_header_bytes:
                raise _refusal(
                    431, "HEADERS_TOO_LARGE", f"At most {limits.max_header_bytes} bytes of headers"
                )
        if limits.max_url is not None:
            raw = scope.get("raw_path") or scope["path"].encode()
            if len(raw) + len(scope["query_string"]) > limits.max_url:
                raise _refusal(414, "URL_TOO_LONG", f"At most {limits.max_url} bytes of URL")

    def _check_length(self, scope: Scope) -> bool:
        """Return whether there is a body to watch."""
        lengths = header_values(scope["headers"], b"content-length")
        encodings = header_values(scope["headers"], b"transfer-encoding")
        if not lengths:
            return bool(encodings) or scope["http_version"] not in ("1.0", "1.1")
        if encodings:  # the first step of smuggling (RFC 9112, section 6.1); h11 lets it through
            raise _refusal(
                400, "BODY_FRAMING_INVALID", "Send Content-Length or Transfer-Encoding, not both"
            )
        if len(set(lengths)) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise _refusal(400, "CONTENT_LENGTH_INVALID", "Content-Length must be one number")
        length = lengths[0].lstrip("0")
        most = self._limits.max_body
        if most is not None and (len(length) > 18 or int(length or 0) > most):
            raise too_large(most)
        return bool(length)


class _Body:
    """A body on its way in, under watch."""

    __slots__ = ("_complete", "_limits", "_receive", "_size", "_started")

    def __init__(self, limits: Limits, receive: Receive) -> None:
        self._limits = limits
        self._receive = receive
        self._size = 0
        self._started: float | None = None
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the disconnect, and may take its time
            return await self._receive()
        message = await self._next()
        if message["type"] != "http.request":
            return message
        self._size += len(message.get("body", b""))
        if self._limits.max_body is not None and self._size > self._limits.max_body:
            raise too_large(self._limits.max_body)
        self._complete = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        limits, now = self._limits, time.monotonic()
        if self._started is None:
            self._started = now
        seconds = limits.chunk_timeout
        if limits.body_timeout is not None:
            left = max(self._started + limits.body_timeout - now, 0.0)
            seconds = left if seconds is None else min(seconds, left)
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                return await self._receive()
        except TimeoutError:
            if not timeout.expired():
                raise
            raise _refusal(408, "BODY_TOO_SLOW", "The body came too slowly") from None


def too_large(most: int) -> HTTPError:
    """Return the refusal of a body."""
    return _refusal(413, "BODY_TOO_LARGE", f"At most {most} bytes of body")


def _refusal(status: int, code: str, message: str) -> HTTPError:
    return HTTPError(status, code, message, headers=_CLOSE)
