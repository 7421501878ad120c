"""Undoing Content-Encoding, a bounded piece at a time."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCEPTED = "gzip, deflate"
PIECE = 64 * 1024  # a decompression bomb has at most this much of the memory
_GZIP, _ZLIB, _RAW = 31, 15, -15


class EncodingError(Exception):
    """The content is not encoded as it says."""


class Inflate:
    """Decodes gzip and deflate (RFC 9110, section 8.4.1); passes on what is not encoded.

    Args:
        encoding: The ``Content-Encoding``. One that nobody asked for matters only to content:
            an answer to HEAD, and a 304, name that of a body they do not have.
    """

    __slots__ = ("_fresh", "_state", "_wbits")

    def __init__(self, encoding: str) -> None:
        known = {"": 0, "identity": 0, "gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
        wbits = self._wbits = known.get(encoding.strip().lower())
        self._state = zlib.decompressobj(wbits) if wbits else None
        self._fresh = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Return what ``data`` decodes to, in pieces of at most 64 KiB.

        Raises:
            EncodingError: If it cannot be decoded.
        """
        if self._wbits is None and data:
            raise EncodingError("it is encoded in a way nobody asked for")
        if self._state is None:
            yield data
            return
        more = bool(data)
        while more:
            piece = self._decompress(data)
            self._fresh = False
            if piece:
                yield piece
            data = self._state.unconsumed_tail
            if self._state.eof:
                data = self._state.unused_data
                if data and self._wbits != _GZIP:
                    raise EncodingError("there is something behind its end")
                if data:  # gzip may consist of several members (RFC 1952, section 2.2)
                    self._state = zlib.decompressobj(_GZIP)
            # All of the input may be consumed with output still to come.
            more = bool(data) or (len(piece) == PIECE and not self._state.eof)

    def end(self) -> None:
        """Check that nothing is missing.

        Raises:
            EncodingError: If the content ended too early.
        """
        if self._state is not None and not self._fresh and not self._state.eof:
            raise EncodingError("it ends too early")

    def _decompress(self, data: bytes) -> bytes:
        state = self._state
        if state is None:
            return data
        try:
            return state.decompress(data, PIECE)
        except zlib.error:
            if not self._fresh or self._wbits != _ZLIB:
                raise EncodingError("it cannot be decoded") from None
        # Some servers send deflate without the zlib format around it (ibidem, 8.4.1.2).
        self._state = zlib.decompressobj(_RAW)
        try:
            return self._state.decompress(data, PIECE)
        except zlib.error:
            raise EncodingError("it cannot be decoded") from None
