"""How many calls are under way at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from common.clients._checks import awaited, count, finite, label
from common.clients._errors import BulkheadFullError
from common.context import DeadlineExceeded, remaining

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")


class Bulkhead:
    """Bounds how many calls are under way at once, and how many wait for that.

    A dependency that gets slow then holds ``limit`` of this process's tasks and connections,
    and not all of them. Who comes first is served first. Nobody waits longer than ``max_wait``
    or the current deadline. Use it as ``async with bulkhead:`` or as a decorator, within one
    event loop; a body must not enter the same bulkhead again.

    Args:
        name: Of the dependency; stands in errors.
        limit: Calls under way at once.
        queue: Calls that may wait; 0 refuses at once what is over the limit.
        max_wait: Most seconds to wait; ``None``: as long as the deadline allows.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> bulkhead = Bulkhead("billing", limit=1)
        >>> async def main() -> None:
        ...     async with bulkhead:
        ...         try:
        ...             async with bulkhead:
        ...                 pass
        ...         except BulkheadFullError as error:
        ...             print(error)
        >>> asyncio.run(main())
        billing: 1 calls are under way and 0 wait, which is all that is allowed
    """

    def __init__(
        self, name: str, *, limit: int, queue: int = 0, max_wait: float | None = None
    ) -> None:
        label("name", name)
        count("limit", limit)
        count("queue", queue, least=0)
        if max_wait is not None:
            finite("max_wait", max_wait)
        self.name = name
        self._limit = limit
        self._queue = queue
        self._max_wait = max_wait
        self._free = limit
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._limit - self._free

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiters)

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiters) >= self._queue:
            raise self._full("which is all that is allowed")
        left = remaining()
        if left is not None and (self._max_wait is None or left < self._max_wait):
            seconds: float | None = left
        else:
            seconds, left = self._max_wait, None
        turn = asyncio.get_running_loop().create_future()
        self._waiters[turn] = None
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._release()  # its turn had come, and it is not there to take it
            self._waiters.pop(turn, None)
            if not isinstance(error, TimeoutError):
                raise
            if left is not None:
                raise DeadlineExceeded(
                    f"the deadline passed in the queue for {self.name}"
                ) from None
            raise self._full(f"and none ended within {seconds:g} s") from None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def __call__(
        self, function: Callable[P, Awaitable[T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate a coroutine function.

        Raises:
            TypeError: If it is none.
        """
        awaited(function)

        @wraps(function)
        async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self:
                return await function(*args, **kwargs)

        return bounded

    def _release(self) -> None:
        while self._waiters:
            turn, _ = self._waiters.popitem(last=False)
            if not turn.done():  # done: cancelled, and not yet awake to leave the queue
                turn.set_result(None)
                return
        self._free += 1

    def _full(self, reason: str) -> BulkheadFullError:
        return BulkheadFullError(
            f"{self.name}: {self.active} calls are under way and {self.waiting} wait, {reason}",
            service=self.name,
        )

    def __repr__(self) -> str:
        return f"Bulkhead({self.name!r}, active={self.active}, waiting={self.waiting})"
