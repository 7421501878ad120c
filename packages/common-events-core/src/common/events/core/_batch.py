"""Publishing in batches, by number and by time."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from common.context import bind, operation
from common.domain import Keyed, Message
from common.errors import AppError
from common.events.core._errors import PublishError, TransportClosed
from common.events.core._results import Failed, Published
from common.events.core._transport import Outgoing

if TYPE_CHECKING:
    from common.events.core._publish import Publisher

Result = Published | Failed
_Item = tuple[Outgoing, "asyncio.Future[Result]"]


class Batcher:
    """Collects messages and publishes them together; made by ``batcher()``.

    Messages are encoded when they are added, with the context of that moment. Batches leave one
    after another, so messages keep their order. Leaving the ``async with`` block publishes what
    is left; if that is cancelled, what was not sent fails. Every message has a result in any
    case, and a failure is also counted as a failed operation.

    Args:
        publisher: Encodes and publishes.
        batch_size: Messages after which a batch leaves.
        flush_interval: Seconds after which a message leaves, at the latest.
        max_buffered: Most messages without a result.
    """

    def __init__(
        self,
        publisher: "Publisher",
        *,
        batch_size: int = 100,
        flush_interval: float = 0.05,
        max_buffered: int = 10_000,
    ) -> None:
        self._publisher = publisher
        self._batch_size = batch_size
        self._flush_interval = flush_interval
        self._room = asyncio.Semaphore(max_buffered)
        self._waiting: deque[_Item] = deque()
        self._pending: set[asyncio.Future[Result]] = set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._closed or self._sender is not None:
            raise TransportClosed("this batcher was used already: make another with batcher()")
        # The sender acts for many units of work: it belongs to none.
        with bind(correlation_id=None, trace=None, tenant=None, user=None, deadline=None):
            self._sender = asyncio.create_task(self._send(), name="common.events batcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def add(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,  # noqa: A002 - the standard's word
    ) -> "asyncio.Future[Published | Failed]":
        """Buffer a message; wait while the buffer is full.

        Args:
            message: The message.
            id: Message id; see `Publisher`.

        Returns:
            A future for its result. It need not be awaited.

        Raises:
            TransportClosed: The batcher is not open.
            PublishNotAllowedError: The type belongs to another service's stream.
            ValueError: See `Codec.encode`, also for its other errors.
        """
        self._check_open()
        outgoing = self._publisher.encode(message, id=id)
        await self._room.acquire()
        try:
            self._check_open()  # it may have been closed meanwhile
        except TransportClosed:
            self._room.release()
            raise
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._pending.add(result)
        result.add_done_callback(self._pending.discard)
        self._waiting.append((outgoing, result))
        if len(self._waiting) >= self._batch_size:
            self._wake.set()
        elif self._timer is None:
            self._timer = loop.call_later(self._flush_interval, self._wake.set)
        return result

    async def flush(self) -> None:
        """Publish what is buffered now, and wait until all of it has a result."""
        self._wake.set()
        pending = set(self._pending)
        while pending:
            _, pending = await asyncio.wait(pending)

    async def close(self) -> None:
        """Publish what is buffered, then stop. Idempotent."""
        self._closed = True
        sender = self._sender
        if sender is None:
            return
        self._wake.set()
        try:
            await asyncio.wait([sender])
        except asyncio.CancelledError:
            sender.cancel()
            await asyncio.wait([sender])
            raise
        if not sender.cancelled():
            sender.result()  # raises what should never happen

    def _check_open(self) -> None:
        if self._closed or self._sender is None:
            raise TransportClosed(
                "the batcher is not open: use it within `async with bus.batcher() as batcher`"
            )

    async def _send(self) -> None:
        batch: list[_Item] = []
        try:
            while self._waiting or not self._closed:
                await self._wake.wait()
                self._wake.clear()
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                while self._waiting:
                    count = min(self._batch_size, len(self._waiting))
                    batch = [self._waiting.popleft() for _ in range(count)]
                    self._settle(batch, await self._published([each for each, _ in batch]))
                    batch = []
        finally:
            # After a cancellation only: nobody is left without a result.
            self._closed = True
            left = [*batch, *self._waiting]
            self._waiting.clear()
            if left:
                error = PublishError("the batcher was stopped before the broker acknowledged")
                results: list[Result] = [_failed(each, error) for each, _ in left]
                with operation("messaging.publish", "batch") as op:
                    op.set({"messaging.batch.failed_count": len(left)})
                    op.fail(error=error)
                self._settle(left, results)

    async def _published(self, outgoing: list[Outgoing]) -> list[Result]:
        results: list[Result]
        with operation("messaging.publish", "batch") as op:
            op.set({"messaging.batch.message_count": len(outgoing)})
            try:
                results = await self._publisher.deliver(outgoing)
            except Exception as error:  # noqa: BLE001 - told as the result of each
                told = error if isinstance(error, AppError) else PublishError(cause=error)
                results = [_failed(each, told) for each in outgoing]
            failed = [each for each in results if isinstance(each, Failed)]
            if failed:
                op.set({"messaging.batch.failed_count": len(failed)})
                op.fail(error=failed[0].error)
        return results

    def _settle(self, batch: list[_Item], results: list[Result]) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # whoever waited may have cancelled it
                future.set_result(result)
            self._room.release()


def _failed(outgoing: Outgoing, error: AppError) -> Failed:
    return Failed(error, outgoing.id, outgoing.subject.partition(".")[2])
