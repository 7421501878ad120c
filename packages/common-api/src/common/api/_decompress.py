"""Request bodies that come compressed, within bounds."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from common.api._checks import number
from common.api._limits import too_large
from common.api._state import header_values
from common.api._views import HTTPError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_PIECE = 64 * 1024
_MEMBER = 256  # bytes of a gzip member, on average: each costs a new inflater


class DecompressMiddleware:
    """Decompresses request bodies: ``gzip`` and ``deflate``, one encoding deep.

    The handler sees the plain body, without ``Content-Encoding`` and ``Content-Length``. A body
    is decompressed piece by piece and never further than the bounds, so that a bomb costs no
    more memory than an honest request, and a gzip body of many tiny members (under 256 bytes on
    average) is refused (400), since each costs as much as a body. Other encodings are a 415 with
    ``Accept-Encoding`` (RFC 9110, section 12.5.3); what does not decompress, or stops early, a
    400.

    Args:
        app: What it wraps.
        max_body: Bytes of the decompressed body (413).
        max_ratio: Decompressed bytes for each byte received (413), once there are 64 KiB.

    Raises:
        ValueError: If a bound is no number of at least 1.
    """

    def __init__(
        self, app: ASGIApp, *, max_body: int = 8 * 1024 * 1024, max_ratio: float = 100.0
    ) -> None:
        number("max_body", max_body, least=1)
        number("max_ratio", max_ratio, least=1)
        self.app = app
        self._max_body = max_body
        self._max_ratio = max_ratio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            encodings = ",".join(header_values(scope["headers"], b"content-encoding"))
            encoding = encodings.strip().lower()
            if encoding and encoding != "identity":
                window = _WINDOW.get(encoding)
                if window is None:
                    raise HTTPError(
                        415,
                        "CONTENT_ENCODING_UNKNOWN",
                        "Send the body as it is, or compressed with gzip or deflate",
                        headers={"Accept-Encoding": "gzip, deflate"},
                    )
                # In place: the router writes into this very scope, for those outside to read.
                scope["headers"] = [
                    pair
                    for pair in scope["headers"]
                    if pair[0] not in (b"content-encoding", b"content-length")
                ]
                receive = _Inflated(receive, window, self._max_body, self._max_ratio).receive
        await self.app(scope, receive, send)


class _Inflated:
    """A body that is decompressed as it is read."""

    def __init__(self, receive: Receive, window: int, most: int, ratio: float) -> None:
        self._receive = receive
        self._window = window
        self._most = most
        self._ratio = ratio
        self._inflater = zlib.decompressobj(window)
        self._waiting = b""
        self._more = True
        self._fresh = True
        self._taken = 0
        self._given = 0
        self._over = False
        self._members = 1

    async def receive(self) -> Message:
        while not self._over:
            if not self._waiting and self._more:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._waiting = message.get("body", b"")
                self._taken += len(self._waiting)
                self._more = message.get("more_body", False)
            body = self._inflate()
            self._over = not self._waiting and not self._more
            if self._over and self._taken and not self._inflater.eof and not self._fresh:
                raise _broken("it stops early")
            if body or self._over:
                return {"type": "http.request", "body": body, "more_body": not self._over}
        return await self._receive()

    def _inflate(self) -> bytes:
        if self._inflater.eof and self._waiting:  # gzip may have several members
            self._members += 1
            if self._members * _MEMBER > self._taken + _PIECE:
                raise _broken("it has too many members")
            self._inflater = zlib.decompressobj(self._window)
        if not self._waiting:
            return b""
        self._fresh = False
        try:
            body = self._inflater.decompress(self._waiting, _PIECE)
        except zlib.error:
            raise _broken("it is no such data") from None
        self._waiting = self._inflater.unconsumed_tail or self._inflater.unused_data
        self._given += len(body)
        if self._given > self._most:
            raise too_large(self._most)
        if self._given > max(self._taken * self._ratio, _PIECE):
            raise HTTPError(
                413,
                "BODY_RATIO_TOO_HIGH",
                f"At most {self._ratio:g} bytes for each byte of a compressed body",
                headers={"Connection": "close"},
            )
        return body


def _broken(why: str) -> HTTPError:
    return HTTPError(400, "BODY_NOT_DECOMPRESSED", f"The body cannot be decompressed: {why}")
