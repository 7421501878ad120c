"""Requests to JetStream's API, as JSON over request and reply (ADR-1 and the API's schemas)."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from common.errors import MessageBusError
from common.events.core._errors import MissingStream
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection, Reply
from common.events.nats._errors import NoResponders, from_answer

Json = dict[str, Any]
T = TypeVar("T")

_LOOK_AGAIN = (0.25, 0.5, 1.0)  # seconds

_NAME = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")


def check_stream_name(name: str) -> None:
    """Refuse what is no name of a stream: it would change the subject of a request.

    Raises:
        MissingStream: There cannot be such a stream.
    """
    if not _NAME.fullmatch(name):
        raise MissingStream(
            f"no stream has the name {name[:100]!r}: a name has no spaces, dots, slashes, wildcards"
        )


async def patiently(look: Callable[[], Awaitable[T]]) -> T:
    """Look for something of a stream that was there, a few times if the stream is not found.

    A leader that was just elected may not know of it yet, and somebody may be making it anew.

    Raises:
        MissingStream: It is really gone.
    """
    for pause in _LOOK_AGAIN:
        try:
            return await look()
        except MissingStream:
            await asyncio.sleep(pause)
    return await look()


class Api:
    """JetStream's API on a connection.

    Args:
        connection: Open when the first request is made.
        config: Its time limit and domain are taken.
    """

    def __init__(self, connection: Connection, config: NatsConfig) -> None:
        self._connection = connection
        self._timeout = config.api_timeout_seconds
        self.prefix = f"$JS.{config.domain}.API" if config.domain else "$JS.API"

    async def request(
        self,
        operation: str,
        payload: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Json:
        """Make a request, such as ``STREAM.INFO.CALL``, and return the answer.

        Args:
            operation: What follows the prefix in the subject.
            payload: Sent as JSON.
            timeout: Seconds; without it, the configuration's.

        Raises:
            MissingStream: ``err_code`` 10059.
            JetStreamError: Any other ``err_code`` that is no passing fault.
            JetStreamDisabled: JetStream is off.
            BrokerUnavailable: No connection, no answer in time, or a fault that passes.
            TransportClosed: The connection is closed.
        """
        body = json.dumps(payload).encode() if payload is not None else b""
        answer = await self._ask(operation, body, timeout)
        try:
            found = json.loads(answer.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise MessageBusError(f"{operation}: the answer is no JSON object")
        if "error" in found:
            raise from_answer(found["error"], what=operation)
        return found

    async def _ask(self, operation: str, body: bytes, timeout: float | None) -> Reply:  # noqa: ASYNC109
        seconds = self._timeout if timeout is None else timeout
        try:
            return await self._connection.request(
                f"{self.prefix}.{operation}", body, timeout=seconds
            )
        except NoResponders:
            raise NoResponders(
                f"{operation}: nobody answers for JetStream: it is off for the server or the "
                "account, or there is no leader at the moment"
            ) from None

    async def pages(self, operation: str, field: str, payload: Mapping[str, object]) -> list[Any]:
        """Return all items of a listing that comes in pages (``total``, ``offset``, ``limit``).

        Args:
            operation: Such as ``STREAM.LIST``.
            field: Of the answer, with the items.
            payload: The request without its offset.
        """
        found: list[Any] = []
        while True:
            answer = await self.request(operation, {**payload, "offset": len(found)})
            items = answer.get(field) or []
            found += items
            if not items or len(found) >= answer.get("total", 0):
                return found
