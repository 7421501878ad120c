"""An answer that is read as it comes."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from common.clients._errors import unusable
from common.errors import UpstreamServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from common.clients._headers import Headers


class StreamedResponse:
    """An answer whose body is read piece by piece; made by `ServiceClient.stream`.

    Attributes:
        status: HTTP status, below 300 (or 304).
        headers: Its headers.
    """

    __slots__ = ("_call", "_left", "_open", "_pieces", "_read", "_service", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        pieces: Callable[[], AsyncGenerator[bytes, None]],
        *,
        service: str,
        call: str,
        check_open: Callable[[], object],
    ) -> None:
        self.status = status
        self.headers = headers
        self._service = service
        self._call = call
        self._pieces = pieces
        self._read = False
        self._left = False
        self._open = check_open

    async def iter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Return the body in pieces of at most 64 KiB, decompressed; once.

        Raises:
            RuntimeError: If it was read before, or is read outside of its ``async with``.
            ClientClosedError: If the client is closed meanwhile.
            UpstreamServiceError: If the connection breaks, or the body is undecodable or
                longer than was allowed. Nothing is repeated: a part was handed out.
            RequestTimeoutError: If nothing comes for as long as the call's timeout.
        """
        if self._read:
            raise RuntimeError("the stream was read already: keep what is needed twice")
        self._read = True
        self._check()
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    yield piece
                    self._check()
        except UpstreamServiceError:
            self._check()
            raise

    async def iter_lines(self, *, longest: int = 1024 * 1024) -> AsyncGenerator[str, None]:
        r"""Return the body's lines without their ends (``\n`` or ``\r\n``), as UTF-8.

        Args:
            longest: Most bytes of a line.

        Raises:
            UpstreamServiceError: If a line is longer, or as of `iter_bytes`.
        """
        rest = bytearray()
        async with aclosing(self.iter_bytes()) as pieces:
            async for piece in pieces:
                *lines, last = piece.split(b"\n")
                for line in lines:
                    rest += line
                    yield self._line(rest, longest)
                    rest = bytearray()
                rest += last
                if len(rest) > longest:
                    self._line(rest, longest)
        if rest:
            yield self._line(rest, longest)

    def leave(self) -> None:
        """Say that the ``async with`` statement ends."""
        self._left = True

    def _check(self) -> None:
        """Raise what ended it on this side, if something did."""
        if self._left:
            raise RuntimeError("the stream is over: read it within its 'async with'")
        self._open()

    def _line(self, line: bytearray, longest: int) -> str:
        if len(line) > longest:
            raise unusable(self._service, self._call, f"a line is longer than {longest} bytes")
        return line.removesuffix(b"\r").decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"StreamedResponse({self.status} from {self._service})"
