"""The time that the caller still waits."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from common.api._checks import number
from common.api._state import header_values
from common.context import DeadlineExceeded, bind, deadline, remaining

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_TIMEOUT_HEADER = "X-Request-Timeout"
_HEADER = REQUEST_TIMEOUT_HEADER.lower().encode()
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class DeadlineMiddleware:
    """Gives each request a deadline, from the seconds its caller still waits.

    The header ``X-Request-Timeout`` (decimal seconds, the one that common-clients sends) can
    only shorten a request's own time. What is not such a number is ignored. When the time is
    up, the handler is cancelled and `DeadlineExceeded` raised: a 504. Until then everything it
    calls sees the time left through `common.context.remaining`. Background tasks, which begin
    after the response, have no deadline.

    Args:
        app: What it wraps.
        longest: Bound for what the header says, in seconds.
        default: Seconds for requests without the header; ``None``: no deadline.

    Raises:
        ValueError: If one is no number above 0.
    """

    def __init__(
        self, app: ASGIApp, *, longest: float = 300.0, default: float | None = None
    ) -> None:
        number("longest", longest, above=0)
        if default is not None:
            number("default", default, above=0)
        self.app = app
        self._longest = longest
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._seconds(scope) if scope["type"] == "http" else None
        if seconds is None:
            await self.app(scope, receive, send)
            return

        over = False

        async def sending(message: Message) -> None:
            nonlocal over
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                over = True
                if not timeout.expired():  # nor about to, for a handler that does not heed it
                    timeout.reschedule(None)
                # Not undone: what follows is the request's own end, which restores what was.
                bind(deadline=None).__enter__()

        async def receiving() -> Message:
            try:
                return await receive()
            finally:
                # Streams are sent by a task of their own; this is the one that goes on.
                if over and remaining() is not None:
                    bind(deadline=None).__enter__()

        timeout = asyncio.timeout(seconds)
        try:
            with deadline(seconds):
                async with timeout:
                    await self.app(scope, receiving, sending)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise DeadlineExceeded("the deadline was exceeded") from error

    def _seconds(self, scope: Scope) -> float | None:
        values = header_values(scope["headers"], _HEADER)
        if len(values) == 1 and _SECONDS.fullmatch(values[0].strip()):
            return min(float(values[0]), self._longest)
        return self._default
