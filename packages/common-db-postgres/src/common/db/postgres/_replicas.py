"""Reading from replicas, and from the primary where that would be wrong or impossible."""

import asyncio
import random
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, TypeVar

from common.context import remaining
from common.db.core import (
    ConnectionLost,
    PoolTimeout,
    SerializationConflict,
    StatementTimeout,
    TooManyConnections,
)
from common.db.postgres._errors import FOREIGN, translate
from common.db.postgres._pool import Pool, time_left
from common.db.postgres._statements import Call
from common.errors import AppError

T = TypeVar("T")

UNREACHABLE: Final = (ConnectionLost, PoolTimeout, TooManyConnections)
"""Why a replica is left alone for a while."""

_REST_SECONDS: Final = 5.0


class _Recent:
    """When the current task, or one that it came from, wrote last; shared between contexts."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = 0.0


_recent: ContextVar[_Recent | None] = ContextVar("common.db.postgres.recent", default=None)


class Replicas:
    """The replicas' pools; empty when there are none.

    Args:
        pools: A pool for each replica.
        lag_seconds: How long after a write its task reads from the primary.
    """

    def __init__(self, pools: Sequence[Pool], *, lag_seconds: float) -> None:
        self.pools = tuple(pools)
        self._rest = dict.fromkeys(self.pools, 0.0)
        self._lag = lag_seconds
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self.pools)

    def track(self) -> _Recent:
        """Return what remembers the writes of the current task."""
        recent = _recent.get()
        if recent is None:
            recent = _Recent()
            _recent.set(recent)
        return recent

    def wrote(self, recent: _Recent | None = None) -> None:
        """Let the current task read from the primary for a while."""
        (recent or self.track()).until = asyncio.get_running_loop().time() + self._lag

    async def read(self, call: Call[T]) -> tuple[T] | None:
        """Run a read on a replica; ``None`` when it has to run on the primary."""
        pool = self.choose()
        if pool is None:
            return None
        try:
            return (await _run(pool, call),)
        except SerializationConflict:
            return None  # recovery removed rows that the query needed (hot standby conflict)
        except UNREACHABLE:
            self.avoid(pool)
            return None
        except StatementTimeout as error:
            if not self.fell_silent(pool, error):
                raise
            return None

    def choose(self) -> Pool | None:
        """Return the next replica, or ``None`` when the primary has to be read."""
        now = asyncio.get_running_loop().time()
        recent = _recent.get()
        if recent is not None and now < recent.until:
            return None
        self._turn += 1
        for step in range(len(self.pools)):
            pool = self.pools[(self._turn + step) % len(self.pools)]
            if self._rest[pool] <= now:
                return pool
        return None

    def fell_silent(self, pool: Pool, error: StatementTimeout) -> bool:
        """Tell whether a replica hangs, rather than a query being slow, and time is left.

        It is left alone until it has answered something.
        """
        if error.error_code is not None:
            return False  # the server's own words
        self.avoid(pool)
        pool.background(self._welcome(pool))
        return remaining() is None

    async def _welcome(self, pool: Pool) -> None:
        try:
            await pool.ping()
        except AppError:
            self.avoid(pool)
        else:
            self._rest[pool] = 0.0

    def avoid(self, pool: Pool) -> None:
        """Leave a replica alone for a while."""
        rest = random.uniform(0.2, 1.0) * _REST_SECONDS  # noqa: S311
        self._rest[pool] = asyncio.get_running_loop().time() + rest


async def _run(pool: Pool, call: Call[T]) -> T:
    slot = pool.take() or await pool.acquire()
    seconds = time_left()
    try:
        result = await call(slot.connection, seconds)
    except FOREIGN as error:
        gone = pool.settle(slot, error)
        raise translate(error, seconds=seconds, closed=gone) from error
    except BaseException:
        pool.recycle(slot)
        raise
    pool.release(slot)
    return result
