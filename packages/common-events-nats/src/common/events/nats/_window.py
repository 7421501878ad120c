"""How many messages, and how many bytes, may be on their way: others wait in line."""

import asyncio
from collections import deque


class Window:
    """Admits messages in the order in which they ask.

    Args:
        messages: Most of them at a time.
        size: Most bytes at a time; a single larger message is admitted alone.
    """

    def __init__(self, messages: int, size: int) -> None:
        self._messages = messages
        self._size = size
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def try_enter(self, size: int) -> bool:
        """Take a place if there is one and nobody waits."""
        if self._waiting or self._messages <= 0 or self._size <= 0:
            return False
        self._messages -= 1
        self._size -= size
        return True

    async def enter(self, size: int) -> None:
        """Wait for a place and take it; cancelling loses none."""
        if self.try_enter(size):
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, size))
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self.leave(size)
            else:
                place.cancel()
                self._admit()
            raise

    def leave(self, size: int) -> None:
        """Give a place back."""
        self._messages += 1
        self._size += size
        if self._waiting:
            self._admit()

    def exchange(self, old: int, new: int) -> None:
        """Keep the place for another message."""
        self._size += old - new

    def _admit(self) -> None:
        while self._waiting and self._messages > 0 and self._size > 0:
            place, size = self._waiting.popleft()
            if not place.done():
                self._messages -= 1
                self._size -= size
                place.set_result(None)
