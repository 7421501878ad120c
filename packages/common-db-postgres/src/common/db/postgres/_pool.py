"""A pool of connections that makes no round trip of its own, and survives cancellation."""

import asyncio
import random
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

from pydantic import SecretStr

from common.context import remaining
from common.db.core import ConnectionLost, PoolStats, PoolTimeout, SessionStateError
from common.db.postgres._config import PostgresConfig
from common.db.postgres._connect import Connection, connect
from common.db.postgres._errors import FOREIGN, lost, translate, wrong_server

_CLEAN_SECONDS: Final = 5.0


def time_left() -> float | None:
    """Return the seconds until the deadline, more than 0, or ``None`` without one."""
    left = remaining()
    return None if left is None else max(left, 0.001)


class Slot:
    """A connection and what the pool knows about it."""

    __slots__ = ("connection", "expires", "generation")

    def __init__(self, connection: Connection, expires: float, generation: int) -> None:
        self.connection = connection
        self.expires = expires
        self.generation = generation


class Pool:
    """Connections to one server; `acquire` is free where one is idle.

    asyncpg's own pool resets every connection it gets back, which costs a round trip. Here
    whoever leaves a connection in doubt says so, and only then it is cleaned.

    Args:
        config: Sizes and times.
        url: The server.
    """

    def __init__(self, config: PostgresConfig, url: SecretStr) -> None:
        self._config = config
        self._url = url
        self._size = config.pool_size
        self._limit = config.pool_size + config.max_overflow
        self._idle: list[Slot] = []
        self._used: set[Slot] = set()
        self._in_doubt: set[Slot] = set()
        self._connecting = 0
        self._waiters: deque[asyncio.Future[Slot | None]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generation = 0
        self._closed = False

    def stats(self) -> PoolStats:
        """Return figures of this instant."""
        open_ = self._open
        return PoolStats(
            size=self._size,
            in_use=len(self._used),
            idle=len(self._idle),
            overflow=max(0, open_ - self._size),
            waiting=sum(not waiter.done() for waiter in self._waiters),
        )

    @property
    def _open(self) -> int:
        return len(self._idle) + len(self._used) + len(self._in_doubt) + self._connecting

    def take(self) -> Slot | None:
        """Return an idle connection if there is one; no waiting."""
        idle = self._idle
        while idle and not self._waiters:
            slot = idle.pop()
            if slot.connection.is_closed():
                continue
            if slot.expires < asyncio.get_running_loop().time():
                self.background(_close(slot.connection))
                continue
            self._used.add(slot)
            return slot
        return None

    async def acquire(self) -> Slot:
        """Return a connection: an idle one, a new one, or the next one that becomes free.

        Raises:
            PoolTimeout: None became free in time.
            ConnectionLost: A new one could not be made.
            SessionStateError: The pool is closed.
        """
        slot = self.take()
        if slot is not None:
            return slot
        seconds = self._config.timeout_seconds
        left = remaining()
        if left is not None:
            seconds = min(seconds, left)
        deadline = asyncio.get_running_loop().time() + seconds
        while slot is None:
            if self._closed:
                raise SessionStateError("the database manager is closed", state="closed")
            if self._open < self._limit and not self._waiters:
                return await self._add(deadline)
            slot = await self._wait(deadline, seconds)
            if slot is None and self._open < self._limit:
                return await self._add(deadline)
        return slot

    def release(self, slot: Slot) -> None:
        """Take back a connection that is as it was: idle, in no transaction."""
        self._forget(slot)
        if self._closed or slot.generation != self._generation or slot.connection.is_closed():
            self.discard(slot)
            return
        if self._waiters and self._hand_over(slot):
            return
        if len(self._idle) >= self._size:
            self.discard(slot)
        else:
            self._idle.append(slot)

    def recycle(self, slot: Slot) -> None:
        """Take back a connection in doubt: clean it in the background, or drop it.

        After a cancelled statement asyncpg asks the server to stop; the next statement waits
        until that is settled.
        """
        self._used.discard(slot)
        self._in_doubt.add(slot)
        self.background(self.clean(slot))

    def discard(self, slot: Slot) -> None:
        """Drop a connection."""
        self._forget(slot)
        if not slot.connection.is_closed():
            self.background(_close(slot.connection))
        self._invite()

    def terminate(self, slot: Slot) -> None:
        """Drop a connection without a word to the server."""
        self._forget(slot)
        slot.connection.terminate()
        self._invite()

    def _forget(self, slot: Slot) -> None:
        self._used.discard(slot)
        self._in_doubt.discard(slot)

    def settle(self, slot: Slot, error: BaseException) -> bool:
        """Take back a connection after an error, and tell whether it is lost.

        With it, all that are as old or older are given up: the server went away.
        """
        if lost(error, closed=slot.connection.is_closed()):
            self.terminate(slot)
            if slot.generation == self._generation:
                self._generation += 1
                while self._idle:
                    self.background(_close(self._idle.pop().connection))
            return True
        if isinstance(error, TimeoutError):
            self.recycle(slot)
        elif wrong_server(error):
            self.discard(slot)
        else:
            self.release(slot)
        return False

    async def ping(self) -> None:
        """Make a round trip."""
        slot = self.take() or await self.acquire()
        try:
            await slot.connection.execute("SELECT", timeout=time_left())
        except FOREIGN as error:
            gone = self.settle(slot, error)
            raise translate(error, closed=gone) from error
        except BaseException:
            self.recycle(slot)
            raise
        self.release(slot)

    async def close(self) -> None:
        """Close everything, also connections in use."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        while self._idle:
            self.background(_close(self._idle.pop().connection))
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_CLEAN_SECONDS)
        for slot in [*self._used, *self._in_doubt]:
            self.terminate(slot)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _add(self, deadline: float) -> Slot:
        """Connect, in a task of its own: who waits may be cancelled, the connection is kept."""
        loop = asyncio.get_running_loop()
        seconds = max(0.001, min(self._config.connect_timeout_seconds, deadline - loop.time()))
        self._connecting += 1
        task = self.background(self._connect(seconds))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by close(), and who waits was not
                raise _closed_meanwhile() from None
            task.add_done_callback(self._adopt)
            raise

    async def _connect(self, seconds: float) -> Slot:
        generation = self._generation
        try:
            connection = await connect(self._config, self._url, seconds=seconds)
        except BaseException:
            self._connecting -= 1
            self._invite()
            raise
        self._connecting -= 1
        if self._closed:
            connection.terminate()
            raise _closed_meanwhile()
        age = self._config.max_connection_age_seconds * random.uniform(0.9, 1.1)  # noqa: S311
        slot = Slot(connection, asyncio.get_running_loop().time() + age, generation)
        self._used.add(slot)
        return slot

    def _adopt(self, task: "asyncio.Task[Slot]") -> None:
        if not task.cancelled() and task.exception() is None:
            self.release(task.result())

    async def _wait(self, deadline: float, seconds: float) -> Slot | None:
        """Queue up; the result is a connection, or ``None`` when there is room for a new one."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Slot | None] = loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter
        except BaseException as error:
            # It may have got something in the very instant in which it stopped waiting.
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())
            if isinstance(error, TimeoutError):
                raise self._exhausted(seconds) from None
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _pass_on(self, slot: Slot | None) -> None:
        if slot is None:
            self._invite()
        else:
            self.release(slot)

    def _exhausted(self, seconds: float) -> PoolTimeout:
        return PoolTimeout(
            f"all {self._limit} connections stayed in use for {seconds:g} s: make units of work "
            "shorter, or pool_size larger",
            timeout_seconds=seconds,
        )

    def _hand_over(self, slot: Slot | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                if slot is not None:
                    self._used.add(slot)
                waiter.set_result(slot)
                return True
        return False

    def _invite(self) -> None:
        """Tell the first who waits that there is room for a new connection."""
        if self._waiters and self._open < self._limit:
            self._hand_over(None)

    async def clean(self, slot: Slot) -> None:
        """Take back a connection in doubt, and return when the server has stopped."""
        self._used.discard(slot)
        self._in_doubt.add(slot)
        try:
            await slot.connection.execute("ROLLBACK", timeout=_CLEAN_SECONDS)
        except (*FOREIGN, asyncio.CancelledError):
            self.terminate(slot)
        else:
            self.release(slot)

    def background(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run what nobody waits for, without anybody's deadline; `close` ends it."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen; whoever awaits it gets it, too


def _closed_meanwhile() -> ConnectionLost:
    return ConnectionLost("the database manager was closed meanwhile")


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=_CLEAN_SECONDS)
    except (*FOREIGN, asyncio.CancelledError):
        connection.terminate()
