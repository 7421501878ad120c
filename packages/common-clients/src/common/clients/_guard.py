"""The breaker and the time of one try."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from common.errors import RequestTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from common.clients._breaker import Breaker
    from common.clients._config import ClientConfig
    from common.clients._limit import Limit
    from common.clients._request import Outgoing


class Guard:
    """Lets a try through if the breaker does, and tells the breaker why it ended.

    The end of the call's time reaches its body as a cancellation, which to a breaker means
    nothing. Here it becomes the error that it is. What the caller's own body raises becomes
    nothing: it does not tell how the other service is.
    """

    __slots__ = ("_breaker", "_config", "_limit", "_outgoing", "_scope")

    def __init__(
        self, config: ClientConfig, breaker: Breaker | None, limit: Limit, outgoing: Outgoing
    ) -> None:
        self._outgoing = outgoing
        self._config = config
        self._breaker = breaker
        self._limit = limit
        self._scope: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        if self._breaker:
            await self._breaker.__aenter__()
        if self._config.try_timeout is not None:
            self._scope = asyncio.timeout(self._config.try_timeout)
            await self._scope.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reason = await self._reason(kind, error, traceback)
        told = reason or error
        if error is not None and error is self._outgoing.body.failure:
            told = asyncio.CancelledError()
        if self._breaker:
            await self._breaker.__aexit__(None if told is None else type(told), told, traceback)
        if reason is not None:
            raise reason from None

    async def _reason(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Exception | None:
        """What to raise in place of the cancellation."""
        if self._scope is not None:
            try:
                await self._scope.__aexit__(kind, error, traceback)
            except TimeoutError:
                service, seconds = self._config.service, self._config.try_timeout
                return RequestTimeoutError(
                    f"{service} did not answer a try of {self._outgoing.call} within {seconds:g} s",
                    service=service,
                    timeout_seconds=seconds,
                )
        # A timer of httpx may have fired in the same moment, and won.
        if isinstance(error, asyncio.CancelledError | RequestTimeoutError) and self._limit.fired:
            return self._limit.reason()
        return None
