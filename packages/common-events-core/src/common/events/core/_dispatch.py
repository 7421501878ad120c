"""Runs items concurrently, those of one key one after another."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from random import randrange
from typing import Generic, TypeVar

T = TypeVar("T")

_TURNS = 16
"""Items after which a worker lets others have the event loop, should no item have done so."""


class Dispatcher(Generic[T]):
    """A bounded number of workers, and a lane for each key that has something to do.

    The first item of a lane is ready or running; the others wait in it. An item costs no task:
    a worker takes whatever is ready.

    Args:
        run: Handles an item and never raises. Returns ``None`` when done, or the seconds after
            which to run the item again; until then its lane waits.
        concurrency: Most items running at once.
        discard: Gets the items that will not be run, in order, once `halt` was called.
    """

    def __init__(
        self,
        run: Callable[[T], Awaitable[float | None]],
        *,
        concurrency: int,
        discard: Callable[[T], Awaitable[None]],
    ) -> None:
        self._run = run
        self._discard = discard
        self._concurrency = concurrency
        self._ready: deque[tuple[T, str | None]] = deque()
        self._lanes: dict[str, deque[T] | None] = {}  # None: nobody waits behind the first
        self._sleeping: dict[asyncio.TimerHandle, tuple[T, str | None]] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._waking = False  # a worker was woken and has not looked yet
        self._halted = False

    @property
    def workers(self) -> int:
        """Tasks at the moment."""
        return len(self._workers)

    def halted(self) -> bool:
        """Whether nothing more is started."""
        return self._halted

    def put(self, item: T, key: str | None = None, *, anywhere: bool = False) -> None:
        """Run an item, after those of its key that were put before it.

        Args:
            item: The item.
            key: Its lane.
            anywhere: Whether it may overtake items of other keys: it takes its turn at random.
        """
        if key is not None:
            lanes = self._lanes
            if key in lanes:
                lane = lanes[key]
                if lane is None:
                    lanes[key] = deque((item,))
                else:
                    lane.append(item)
                return
            lanes[key] = None
        self._make_ready(item, key, anywhere=anywhere)

    async def halt(self) -> None:
        """Start nothing more; discard what does not run, except behind what still runs.

        What waits behind a running item of its key is discarded when that ends: before, another
        process could overtake it.
        """
        if self._halted:
            return
        self._halted = True
        waiting = [*self._ready, *self._sleeping.values()]
        self._ready.clear()
        for timer in self._sleeping:
            timer.cancel()
        self._sleeping.clear()
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        for item, key in waiting:
            await self._discard(item)
            await self._discard_lane(key)

    async def drain(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - of wait()
        """Wait after `halt` for what runs; whether all of it ended within the seconds given."""
        if self._workers:
            await asyncio.wait(self._workers, timeout=timeout)
        return not self._workers

    def cancel(self) -> None:
        """Cancel what runs."""
        for worker in self._workers:
            worker.cancel()

    def _make_ready(self, item: T, key: str | None, *, anywhere: bool = False) -> None:
        if anywhere:
            self._ready.insert(randrange(len(self._ready) + 1), (item, key))  # noqa: S311
        else:
            self._ready.append((item, key))
        if not self._waking:
            self._wake()

    def _wake(self) -> None:
        """Let one more worker look for work; it wakes the next one if there is more.

        One at a time: handlers that do not suspend are all run by the first.
        """
        idle = self._idle
        while idle:
            future = idle.popleft()
            if not future.done():
                future.set_result(None)
                self._waking = True
                return
        if len(self._workers) < self._concurrency:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._ended)
            self._waking = True

    def _ended(self, worker: "asyncio.Task[None]") -> None:
        """Replace a worker that an item has ended, such as by cancelling the task it runs in."""
        self._workers.discard(worker)
        if self._ready and not self._halted:
            self._wake()

    async def _work(self) -> None:
        ready, run = self._ready, self._run
        loop = asyncio.get_running_loop()
        self._waking = False
        turns = 0
        while not self.halted():
            if not ready:
                future = loop.create_future()
                self._idle.append(future)
                await future
                self._waking = False
                continue
            item, key = ready.popleft()
            if ready and not self._waking:
                self._wake()
            try:
                pause = await run(item)
            except BaseException:
                await self._discard_lane(key)
                raise
            if self.halted():
                if pause is not None:
                    await self._discard(item)
                await self._discard_lane(key)
            elif pause is not None:
                self._sleep(item, key, pause)
            elif key is not None:
                self._next(key)
            turns += 1
            if turns % _TURNS == 0:
                await asyncio.sleep(0)

    def _next(self, key: str) -> None:
        lane = self._lanes[key]
        if lane:
            # Not through `_make_ready`: this worker is about to look for work.
            self._ready.append((lane.popleft(), key))
        else:
            del self._lanes[key]

    def _sleep(self, item: T, key: str | None, pause: float) -> None:
        def wake() -> None:
            del self._sleeping[timer]
            self._make_ready(item, key)

        timer = asyncio.get_running_loop().call_later(pause, wake)
        self._sleeping[timer] = (item, key)

    async def _discard_lane(self, key: str | None) -> None:
        if key is not None:
            for item in self._lanes.pop(key, None) or ():
                await self._discard(item)
