"""Row locks of the in-memory backend: waiting in turn, and finding deadlocks."""

import asyncio
from collections.abc import Hashable
from typing import TypeAlias

from common.db.core._errors import Deadlock, LockTimeout

Owner: TypeAlias = object
Resource: TypeAlias = Hashable


class Locks:
    """Exclusive locks that their owners keep until they end.

    Args:
        timeout_seconds: Longest wait for one lock.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._owners: dict[Resource, Owner] = {}
        self._held: dict[Owner, set[Resource]] = {}
        self._waiting: dict[Resource, dict[Owner, asyncio.Future[None]]] = {}  # in turn
        self._wants: dict[Owner, Resource] = {}

    async def acquire(self, owner: Owner, resource: Resource) -> None:
        """Take a lock, after those who came before.

        Raises:
            Deadlock: Its owner waits, over however many others, for this one.
            LockTimeout: It did not become free in time.
        """
        holder = self._owners.get(resource)
        if holder is owner:
            return
        if holder is None:
            self._give(resource, owner)
            return
        if self._waits_for(holder, owner):
            raise Deadlock("two transactions wait for rows that the other one changed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(resource, {})
        queue[owner] = future
        self._wants[owner] = resource
        try:
            async with asyncio.timeout(self._timeout):
                await future
        except TimeoutError:
            raise LockTimeout(
                "another transaction keeps a row locked", timeout_seconds=self._timeout
            ) from None
        finally:
            self._wants.pop(owner, None)
            queue.pop(owner, None)
            if not queue and self._waiting.get(resource) is queue:
                del self._waiting[resource]

    def release(self, owner: Owner) -> None:
        """Give back all that ``owner`` holds; the longest waiting get it."""
        for resource in self._held.pop(owner, ()):
            del self._owners[resource]
            for following, future in self._waiting.get(resource, {}).items():
                if not future.done():  # otherwise it was cancelled, and is about to leave
                    self._give(resource, following)
                    del self._wants[following]
                    future.set_result(None)
                    break

    def _give(self, resource: Resource, owner: Owner) -> None:
        self._owners[resource] = owner
        self._held.setdefault(owner, set()).add(resource)

    def _waits_for(self, waiter: Owner, other: Owner) -> bool:
        """Follow who waits for whom; each waits for one at most, so this is a chain."""
        current: Owner | None = waiter
        while current is not None:
            if current is other:
                return True
            wanted = self._wants.get(current)
            current = None if wanted is None else self._owners.get(wanted)
        return False
