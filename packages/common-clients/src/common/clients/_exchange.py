"""One request and its answer, over httpx; no other module but that of redirects knows it."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from common.clients._connections import Connections
from common.clients._errors import unusable
from common.clients._headers import Headers
from common.clients._inflate import ACCEPTED, EncodingError, Inflate
from common.clients._problem import MAX_BODY, attach, parse_problem
from common.clients._redirect import STATUSES, Hop, follow, refused
from common.clients._response import Response
from common.clients._unreachable import why_unreachable
from common.errors import (
    AppError,
    RequestTimeoutError,
    ServiceUnavailableError,
    classify_http,
    wrap,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from common.clients._config import ClientConfig
    from common.clients._request import Outgoing

_WORDS = re.compile(r"[A-Za-z, -]{0,80}")
_ERROR_BODY_SECONDS = 1.0  # of an error, the status is enough


class Exchange:
    """Sends requests to one service, and tells its failures apart."""

    def __init__(
        self,
        config: ClientConfig,
        transport: httpx.AsyncBaseTransport | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._service = config.service
        self._config = config
        self.transport = transport or Connections(config, tls)
        base = httpx.URL(config.base_url)
        self._base = f"{base.scheme}://{base.netloc.decode('ascii')}"

    async def open(
        self, outgoing: Outgoing, headers: list[tuple[str, str]], idle: float
    ) -> httpx.Response:
        """Send a request, follow redirects, and return the answer, its body still unread.

        Args:
            outgoing: The request.
            headers: Those the client adds; the request's own win.
            idle: Seconds until the next part of an answer must be there.

        Raises:
            AppError: If there is no answer, or it is an error.
        """
        own = {name.lower() for name, _ in outgoing.headers}
        common = [("Accept-Encoding", ACCEPTED), ("User-Agent", "common-clients"), *headers]
        sent = [pair for pair in common if pair[0].lower() not in own] + outgoing.headers
        hop = Hop(
            outgoing.method, httpx.URL(self._base + outgoing.target), sent, not outgoing.body.empty
        )
        left = self._config.follow_redirects
        while True:
            first = left == self._config.follow_redirects
            response = await self._send(outgoing, hop, idle, first=first)
            status = response.status_code
            if 200 <= status < 300 or status == 304:
                return response
            try:
                if status < 200:
                    raise self._unusable(outgoing, "it switches protocols unasked")
                if status not in STATUSES:
                    raise await self._error(outgoing, response)
                if left == 0:
                    allowed = self._config.follow_redirects
                    raise refused(
                        self._service,
                        outgoing.call,
                        status,
                        f"once more, and follow_redirects is {allowed}",
                    )
                await self._error_body(outgoing, response)  # or the connection could not be kept
                location = response.headers.get("location")
                hop = follow(self._service, outgoing, hop, status, location)
                left -= 1
            finally:
                await response.aclose()

    async def read(self, outgoing: Outgoing, response: httpx.Response, limit: int) -> Response:
        """Read an answer to its end, at most ``limit`` bytes, and close it."""
        headers = self.headers(response)
        content = bytearray()  # pieces may be of one byte each
        try:
            length = headers.get("content-length", "")
            announced = length.isdecimal() and (
                len(length) > 18 or int(length) > _received(response, limit)
            )
            # HEAD and 304 announce what they do not send (RFC 9110, section 8.6).
            if announced and outgoing.method != "HEAD" and response.status_code != 304:
                raise self._too_large(outgoing, limit)
            async with aclosing(self.pieces(outgoing, response, limit)) as pieces:
                async for piece in pieces:
                    content += piece
        finally:
            await response.aclose()
        return Response(
            response.status_code,
            headers,
            bytes(content),
            service=self._service,
            call=outgoing.call,
        )

    def headers(self, response: httpx.Response) -> Headers:
        """Return the headers of an answer."""
        pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers.raw]
        return Headers(pairs)

    async def pieces(
        self, outgoing: Outgoing, response: httpx.Response, limit: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Return the body as it comes, decoded.

        Raises:
            AppError: If the connection breaks, or the body is undecodable or over the limit.
        """
        received = decoded = 0
        most = None if limit is None else _received(response, limit)
        stream: Any = response.stream
        try:
            inflate = Inflate(response.headers.get("content-encoding", ""))
            async with aclosing(aiter(stream)) as chunks:
                async for chunk in chunks:
                    received += len(chunk)
                    for piece in inflate.pieces(chunk):
                        decoded += len(piece)
                        if limit is not None and decoded > limit:
                            raise self._too_large(outgoing, limit)
                        yield piece
                    if limit is not None and most is not None and received > most:
                        raise self._too_large(outgoing, limit)
            inflate.end()
        except EncodingError as error:
            raise self._unusable(outgoing, f"the body is unusable, {error}") from error
        except (httpx.TransportError, OSError) as error:  # what breaks TLS later is an OSError
            failure = self._failure(outgoing, error)
        else:
            return
        raise failure  # outside of the except clause, see _failure

    async def _send(
        self, outgoing: Outgoing, hop: Hop, idle: float, *, first: bool
    ) -> httpx.Response:
        outgoing.unsent = False
        request = httpx.Request(
            hop.method,
            hop.url,
            headers=hop.headers,
            content=outgoing.body.content() if hop.content else None,
            extensions={
                "timeout": {
                    "connect": min(self._config.connect_timeout, idle),
                    "read": idle,
                    "write": idle,
                    "pool": idle,
                }
            },
        )
        try:
            return await self.transport.handle_async_request(request)
        except (httpx.TransportError, OSError) as error:
            if error is outgoing.body.failure:
                raise
            failure = self._failure(outgoing, error)
            # There was no connection. But what answered with a redirect may have done its work.
            outgoing.unsent = first and isinstance(
                error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
            )
        raise failure  # outside of the except clause, see _failure

    async def _error(self, outgoing: Outgoing, response: httpx.Response) -> AppError:
        """Return what an error status means here."""
        status, headers = response.status_code, response.headers
        retry_after = headers.get("retry-after")
        body = await self._error_body(outgoing, response)
        problem = parse_problem(body, headers.get("content-type", ""))
        error = classify_http(
            status,
            service=self._service,
            endpoint=outgoing.template,  # no filled-in values, no query
            error=problem.code if problem else None,
            message=f"{self._service} answered with HTTP status {status} to {outgoing.call}",
            retry_after=retry_after,
            delegated=outgoing.delegated,
            now=_date(headers.get("date")) if retry_after else None,
        )
        if problem:
            attach(error, problem)
        return error

    async def _error_body(self, outgoing: Outgoing, response: httpx.Response) -> bytes:
        try:
            async with (
                asyncio.timeout(_ERROR_BODY_SECONDS),
                aclosing(self.pieces(outgoing, response, MAX_BODY)) as pieces,
            ):
                return b"".join([piece async for piece in pieces])
        except (AppError, TimeoutError):
            return b""

    def _failure(self, outgoing: Outgoing, error: httpx.TransportError | OSError) -> AppError:
        """Return what a failure of the transport means.

        It is the cause, except for violations of the protocol: their text quotes what was
        received, which may be anything and long. Only its first words are kept.
        """
        service = self._service
        if isinstance(error, httpx.TimeoutException):
            doing = "connect" if isinstance(error, httpx.ConnectTimeout) else "answer"
            return wrap(
                error,
                RequestTimeoutError,
                f"{service} did not {doing} in time: {outgoing.call}",
                service=service,
                operation=doing,
            )
        if isinstance(error, httpx.ConnectError):
            return wrap(
                error,
                ServiceUnavailableError,
                f"{service} cannot be reached for {outgoing.call}: {why_unreachable(error)}",
                service=service,
            )
        if isinstance(error, httpx.ProtocolError | httpx.UnsupportedProtocol):
            remote = isinstance(error, httpx.RemoteProtocolError)
            words = _WORDS.match(str(error))
            what = "the answer is broken" if remote else "the request cannot be sent"
            why = f"{what}: {words[0].strip() if words else ''}"
            return unusable(service, outgoing.call, why, retryable=remote)
        broken = unusable(service, outgoing.call, "the connection broke", retryable=True)
        broken.__cause__ = error
        return broken

    def _too_large(self, outgoing: Outgoing, limit: int) -> AppError:
        return self._unusable(outgoing, f"the answer is longer than {limit} bytes")

    def _unusable(self, outgoing: Outgoing, why: str) -> AppError:
        return unusable(self._service, outgoing.call, why)


def _received(response: httpx.Response, limit: int) -> int:
    """Most bytes received for ``limit`` decoded ones: what cannot be compressed gets longer."""
    plain = response.headers.get("content-encoding", "identity") in ("", "identity")
    return limit if plain else limit + limit // 100 + 1024


def _date(text: str | None) -> datetime | None:
    """The server's own time, by which its Retry-After date is to be read."""
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
