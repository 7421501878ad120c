"""A batch on its way through the pipeline: no task, no future for each message."""

import asyncio
import functools
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.context import remaining
from common.errors import MessageBusError
from common.events.core._errors import PublishError
from common.events.core._transport import Outgoing
from common.events.nats._in_flight import InFlight, Result

if TYPE_CHECKING:
    from common.events.nats._pipeline import Pipeline


class Batch:
    """Publishes messages through a `Pipeline`, and collects a result for each.

    Of one key only one message is on its way: were the second stored and the first sent again,
    they would have changed places.
    """

    def __init__(
        self, pipeline: "Pipeline", messages: Sequence[Outgoing], timeout: float | None
    ) -> None:
        self._pipeline = pipeline
        self._messages = messages
        self._seconds = pipeline.seconds if timeout is None else timeout
        left = remaining()
        self._latest = math.inf if left is None else time.monotonic() + left
        self._results: list[Result | None] = [None] * len(messages)
        self._left = len(messages)
        self._lanes: dict[str, deque[int]] = {}
        self._broken: set[str] = set()
        self._entries: dict[int, InFlight] = {}
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancelled = False

    async def run(self) -> list[Result]:
        """Send all and wait for all results."""
        if not self._messages:
            return []
        try:
            for index, message in enumerate(self._messages):
                if not self._waits(index, message.key):
                    await self._admit(index, message)
            await self._finished
        except asyncio.CancelledError:
            self._cancelled = True
            for entry in list(self._entries.values()):
                self._pipeline.drop(entry)
            raise
        return [result for result in self._results if result is not None]

    def _waits(self, index: int, key: str | None) -> bool:
        """Whether a message has to wait for another of its key, or need not be sent any more."""
        if key is None:
            return False
        if key in self._broken:
            self._keep(index, self._not_sent(index))
            return True
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque()
            return False
        lane.append(index)
        return True

    async def _admit(self, index: int, message: Outgoing) -> None:
        window = self._pipeline.window
        try:
            command, token = self._pipeline.encode(message)
            size = len(command)
            if not window.try_enter(size):
                await window.enter(size)
                try:
                    self._pipeline.check_open()
                except MessageBusError:
                    window.leave(size)
                    raise
        except MessageBusError as error:
            self._keep(index, error)
            if message.key is not None:
                del self._lanes[message.key]  # it was the first: nobody waits for it
            return
        self._start(index, message, command, token)

    def _start(self, index: int, message: Outgoing, command: bytes, token: bytes) -> None:
        now = time.monotonic()
        deadline = min(now + self._seconds, self._latest)
        done = functools.partial(self._done, index)
        entry = self._entries[index] = InFlight(message, token, command, deadline, done)
        self._pipeline.start(entry, now)

    def _done(self, index: int, result: Result) -> None:
        entry = self._entries.pop(index)
        size, key = len(entry.command), entry.message.key
        if not self._cancelled:
            self._keep(index, result)
            if key is not None and self._follow(key, result, size):
                return
        self._pipeline.window.leave(size)

    def _follow(self, key: str, result: Result, size: int) -> bool:
        """Send the next message of a key in the place of the one before, if there is one."""
        lane = self._lanes[key]
        if isinstance(result, MessageBusError) and result.retryable:
            # Whoever publishes the failed one again must not find later ones stored.
            self._broken.add(key)
            for index in lane:
                self._keep(index, self._not_sent(index))
            lane.clear()
        while lane:
            index = lane.popleft()
            message = self._messages[index]
            try:
                command, token = self._pipeline.encode(message)
            except MessageBusError as error:
                self._keep(index, error)
                continue
            self._pipeline.window.exchange(size, len(command))
            self._start(index, message, command, token)
            return True
        del self._lanes[key]
        return False

    def _not_sent(self, index: int) -> PublishError:
        message = self._messages[index]
        return PublishError(
            f"{message.subject}: not sent, because an earlier message of its key has failed",
            message_id=message.id,
        )

    def _keep(self, index: int, result: Result) -> None:
        self._results[index] = result
        self._left -= 1
        if not self._left and not self._finished.done():
            self._finished.set_result(None)
