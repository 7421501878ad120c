"""Request and reply between services, with deadlines and the context of the caller.

Errors travel as in NATS' service API (ADR-32): ``Nats-Service-Error-Code`` and
``Nats-Service-Error``, with `common.errors.AppError.to_dict` as the body. Nothing is stored: a
request that nobody answers is lost, and one that was not answered may have been carried out.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from common.context import bind, deadline, extract, inject, operation, remaining
from common.errors import (
    AppError,
    InternalError,
    RequestTimeoutError,
    ValidationError,
    classify_http,
)
from common.events.nats._connection import Connection, Subscription
from common.events.nats._denied import Denied, forbidden
from common.events.nats._errors import NatsTimeout
from common.events.nats._headers import VERSION, command, encode_headers, parse_headers

TIMEOUT_HEADER = "Request-Timeout"
"""Seconds that the caller still waits, as a decimal number."""

MAX_TIMEOUT = 300.0
MAX_WAITING = 1_000

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0
_STATUS = "Nats-Service-Error-Code"
_REASON = "Nats-Service-Error"


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as its handler sees it; the caller's context is bound meanwhile."""

    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[bytes | Response]]


async def request(
    connection: Connection,
    subject: str,
    data: bytes = b"",
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - travels with the request
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request and return the answer.

    Request id, correlation id and trace of the current context go with it, and so does the time
    that is left.

    Args:
        connection: Of a `NatsTransport`.
        subject: Where to; no wildcards.
        data: The body.
        timeout: Seconds; the deadline of the current context shortens it.
        headers: Further headers.

    Raises:
        RequestTimeoutError: No answer in time.
        NoResponders: Nobody serves the subject.
        BrokerUnavailable: No connection.
        MessageTooLarge: Larger than the server takes.
        AppError: What the service has answered, as `common.errors.classify_http` has it.
    """
    _check_subject(subject)
    left = remaining()
    seconds = min(timeout, MAX_TIMEOUT) if left is None else min(timeout, MAX_TIMEOUT, left)
    if seconds <= 0:
        raise RequestTimeoutError(f"no time was left to ask {subject}")
    with operation("rpc", subject, {"rpc.system": "nats"}):
        sent = {**(headers or {}), TIMEOUT_HEADER: f"{seconds:.3f}"}
        inject(sent)
        try:
            lines = encode_headers(sent)
        except ValueError as error:
            raise ValidationError(str(error), field="headers") from None
        try:
            answer = await connection.request(subject, data, timeout=seconds, headers=_block(lines))
        except NatsTimeout as error:
            raise RequestTimeoutError(f"no answer from {subject} in time") from error
        found = answer.headers
        if (status := found.get(_STATUS)) is not None:
            raise classify_http(
                int(status) if re.fullmatch("[45][0-9][0-9]", status) else 500,
                service=subject,
                error=_code(answer.data),
                message=f"{subject} has answered with an error",
                delegated=True,
            )
        return Response(answer.data, found)


class Service:
    """Answers requests of a subject until it is closed: see `serve`."""

    def __init__(
        self, connection: Connection, subject: str, handler: Handler, most: int, timeout: float
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._handler = handler
        self._most = most
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def open(self, queue: str) -> None:
        """Subscribe, and wait until the server knows of it."""
        refused: list[Denied] = []
        unlisten = self._connection.on_denied(refused.append)
        try:
            self._subscription = await self._connection.subscribe(
                self._subject, self._receive, queue=queue
            )
            await self._connection.flush(_FLUSH_SECONDS)
            if any(denied.hearing(self._subject) for denied in refused):
                raise forbidden("subscribe to", self._subject)
        except BaseException:
            await self.close(drain=0)
            raise
        finally:
            unlisten()

    async def close(self, *, drain: float = 5.0) -> None:
        """Take no more requests, let those in hand finish. Idempotent.

        Args:
            drain: Seconds after which what is still not finished is cancelled.
        """
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close(flush=True)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=drain)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _receive(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if not reply:
            return
        if len(self._tasks) >= self._most:
            self._answer(reply, b"", _error_headers(503, "too many requests at once"))
            return
        task = asyncio.get_running_loop().create_task(self._serve(subject, reply, data, headers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, subject: bytes, reply: bytes, data: bytes, raw: bytes | None) -> None:
        headers = parse_headers(raw)
        name = subject.decode(errors="replace")
        try:
            with bind(extract(headers)), operation("rpc", self._subject, {"rpc.system": "nats"}):
                async with deadline(_seconds(headers, self._timeout)):
                    answer = await self._handler(Request(name, data, headers))
                if not isinstance(answer, Response):
                    answer = Response(answer)
                lines = encode_headers(answer.headers)
                if not isinstance(answer.data, bytes):
                    raise TypeError("a handler returns bytes or a Response")
        except AppError as error:
            self._fail(reply, error)
        except Exception as error:
            internal = InternalError(f"the handler of {self._subject} has failed", cause=error)
            log.exception("The handler of %s has failed", self._subject)
            self._fail(reply, internal)
        except asyncio.CancelledError:
            # Closed: whoever waits may ask another one.
            self._answer(reply, b"", _error_headers(503, "the service was stopped"))
            raise
        else:
            self._answer(reply, answer.data, lines)

    def _fail(self, reply: bytes, error: AppError) -> None:
        body = json.dumps({"error": error.to_dict()}).encode()
        self._answer(reply, body, _error_headers(error.status, error.code))

    def _answer(self, reply: bytes, data: bytes, lines: bytes) -> None:
        if len(data) + len(lines) + 32 > self._connection.max_payload:
            log.error("An answer of %s is larger than NATS takes", self._subject)
            data, lines = b"", _error_headers(500, "the answer is too large")
        if self._connection.connected:  # else whoever asked has given up
            self._connection.nc.write(command(reply, b"", _block(lines), data))


async def serve(
    connection: Connection,
    subject: str,
    handler: Handler,
    *,
    queue: str = "",
    concurrency: int = 100,
    timeout: float = 30.0,  # noqa: ASYNC109 - of each later request
) -> Service:
    """Answer requests of a subject.

    The handler runs with the caller's ids and trace and no longer than the caller waits. What it
    raises is answered as an error: an `AppError` with its status and code, anything else as an
    internal error of which nothing is told.

    Args:
        connection: Of a `NatsTransport`.
        subject: Which requests; ``*`` and ``>`` are allowed.
        handler: Gets a `Request`, returns bytes or a `Response`.
        queue: Services of one queue group share the requests.
        concurrency: Most requests at once; further ones are answered with 503 at once.
        timeout: Longest time for a request, in seconds, for callers that do not say.

    Raises:
        NatsPermissionError: This connection may not listen on the subject.
        BrokerUnavailable: No connection.
    """
    _check_subject(subject, wildcards=True)
    if queue:
        _check_subject(queue)
    if not 1 <= concurrency <= MAX_WAITING:
        raise ValidationError(f"concurrency is 1 to {MAX_WAITING}", field="concurrency")
    service = Service(connection, subject, handler, concurrency, min(timeout, MAX_TIMEOUT))
    await service.open(queue)
    return service


def _check_subject(subject: str, *, wildcards: bool = False) -> None:
    words = subject.split(".")
    if (
        len(subject) > 255
        or not all(words)
        or not subject.isprintable()
        or any(character.isspace() for character in subject)
        or (not wildcards and any("*" in word or ">" in word for word in words))
    ):
        raise ValidationError(
            "a subject is made of words divided by dots, without spaces"
            f"{'' if wildcards else ' and wildcards'}",
            field="subject",
        )


def _block(lines: bytes) -> bytes:
    return VERSION + b"\r\n" + lines + b"\r\n" if lines else b""


def _error_headers(status: int, reason: str) -> bytes:
    words = " ".join(reason.split()).encode("ascii", "replace").decode()
    return f"{_STATUS}: {status}\r\n{_REASON}: {words}\r\n".encode()


def _seconds(headers: Mapping[str, str], most: float) -> float:
    try:
        told = float(headers[TIMEOUT_HEADER])
    except (KeyError, ValueError):
        return most
    return min(told, MAX_TIMEOUT) if 0 < told < float("inf") else most


def _code(data: bytes) -> str | None:
    """Return the code of the error that the service tells of."""
    try:
        code = json.loads(data)["error"]["code"]
    except (ValueError, TypeError, LookupError):
        return None
    return code[:100] if isinstance(code, str) else None
