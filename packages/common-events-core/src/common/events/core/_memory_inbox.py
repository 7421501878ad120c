"""An inbox in this process, for tests."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, overload

from common.events.core._inbox import Inbox, InboxTransaction, T


class MemoryInbox(Inbox[T]):
    """Remembers handled messages in this process; the oldest marks go when there are too many.

    Args:
        begin: Opens the transaction that the handler gets, such as the method ``transaction`` of
            ``common.db.core``'s `MemoryDatabase`; its effects and the mark commit together.
            Without it the handler's transaction is ``None``.
        max_marks: Most messages remembered.

    Example:
        >>> async def main():
        ...     inbox = MemoryInbox()
        ...     for _ in range(2):
        ...         async with inbox.transaction("billing", "1") as opened:
        ...             print(opened.duplicate)
        >>> asyncio.run(main())
        False
        True
    """

    @overload
    def __init__(self: "MemoryInbox[None]", *, max_marks: int = ...) -> None: ...
    @overload
    def __init__(
        self, begin: Callable[[], AbstractAsyncContextManager[T]], *, max_marks: int = ...
    ) -> None: ...
    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
        *,
        max_marks: int = 100_000,
    ) -> None:
        if max_marks < 1:
            raise ValueError(f"max_marks {max_marks}: give at least 1")
        self._begin = begin
        self._max_marks = max_marks
        self._done: dict[tuple[str, str], None] = {}
        self._open: dict[tuple[str, str], asyncio.Future[None]] = {}

    def handled(self, consumer: str, message_id: str) -> bool:
        """Whether a consumer has handled a message."""
        return (consumer, message_id) in self._done

    @asynccontextmanager
    async def transaction(
        self, consumer: str, message_id: str
    ) -> AsyncGenerator[InboxTransaction[T]]:
        """See `Inbox.transaction`."""
        key = consumer, message_id
        while (other := self._open.get(key)) is not None:
            await asyncio.shield(other)
        self._open[key] = asyncio.get_running_loop().create_future()
        try:
            async with self._begin() as transaction:
                yield InboxTransaction(key in self._done, transaction)
            self._mark(key)  # no await since the commit: nothing comes between
        finally:
            self._open.pop(key).set_result(None)

    def _mark(self, key: tuple[str, str]) -> None:
        self._done[key] = None
        while len(self._done) > self._max_marks:
            del self._done[next(iter(self._done))]
