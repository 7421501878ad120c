"""The time of one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from common.clients._errors import ClientClosedError
from common.context import DeadlineExceeded, deadline, remaining
from common.errors import RequestTimeoutError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Limit:
    """Ends a call when its time is up or its client is closed, and says which it was.

    While it is open, `common.context.remaining` tells what is left.
    """

    __slots__ = (
        "_call",
        "_caller",
        "_cancelling",
        "_deadline",
        "_ended",
        "_inbound",
        "_running",
        "_scope",
        "_service",
        "_stopped",
        "seconds",
        "task",
    )

    def __init__(self, service: str, call: str, seconds: float, running: set[Limit]) -> None:
        self._service = service
        self._call = call
        self.seconds = seconds
        self._running = running
        self._stopped = False
        self._ended: asyncio.Event | None = None
        self.task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        left = remaining()
        self._inbound = left is not None and left <= self.seconds
        self._caller = None if left is None else asyncio.get_running_loop().time() + left
        self.task = asyncio.current_task()
        self._cancelling = self.task.cancelling() if self.task else 0
        self._deadline: deadline | None = deadline(self.seconds)
        self._deadline.__enter__()
        try:
            self._scope = asyncio.timeout(remaining())
            await self._scope.__aenter__()
        except BaseException:
            self._deadline.__exit__(None, None, None)
            raise
        self._running.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.discard(self)
        if self._ended is not None:
            self._ended.set()
        # Someone within the call may have seen its end before the timer did.
        late = isinstance(error, DeadlineExceeded) and not self._inbound and remaining() == 0
        self._leave_deadline()
        try:
            await self._scope.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise self.reason() from None
        if late:
            raise self.reason() from None

    @property
    def fired(self) -> bool:
        """Whether this is what cancels the current task, and nobody else does."""
        if not self._scope.expired():
            return False
        return (
            self.task is None
            or asyncio.current_task() is not self.task
            or self.task.cancelling() <= self._cancelling + 1
        )

    def reason(self) -> Exception:
        """Return the error that says why the call ended."""
        if self._stopped:
            return ClientClosedError(
                f"the client of {self._service} was closed meanwhile", service=self._service
            )
        if self._inbound:
            return DeadlineExceeded(
                f"the deadline passed before {self._service} answered {self._call}"
            )
        return RequestTimeoutError(
            f"{self._service} did not answer {self._call} within {self.seconds:g} s",
            service=self._service,
            timeout_seconds=self.seconds,
        )

    @property
    def stopped(self) -> bool:
        """Whether the client was closed meanwhile."""
        return self._stopped

    @property
    def callers(self) -> float | None:
        """Seconds left of the caller's own deadline; ``None`` without one."""
        if self._caller is None:
            return None
        return max(self._caller - asyncio.get_running_loop().time(), 0.0)

    @property
    def over(self) -> bool:
        """Whether it has ended the call: nothing must begin that nobody would end any more."""
        return self._scope.expired()

    def stop(self) -> asyncio.Event:
        """End the call now, as its client is being closed; the event tells when it has ended."""
        if not self._scope.expired():
            self._stopped = True
            self._scope.reschedule(asyncio.get_running_loop().time())
        self._ended = asyncio.Event()
        return self._ended

    def only_inbound(self) -> None:
        """From now on let only the caller's own deadline, if there is one, end it."""
        self._leave_deadline()
        if not self._scope.expired():
            left = remaining()
            loop = asyncio.get_running_loop()
            self._inbound = True
            self._scope.reschedule(None if left is None else loop.time() + left)

    def _leave_deadline(self) -> None:
        bound, self._deadline = self._deadline, None
        if bound is not None:
            bound.__exit__(None, None, None)
