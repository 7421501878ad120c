"""LISTEN and NOTIFY: messages between processes on one database, which keeps none of them."""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from common.context import operation
from common.db.core import SessionStateError, UnitOfWork, UnsupportedOperation
from common.db.postgres._config import PostgresConfig
from common.db.postgres._connect import Connection, connect
from common.db.postgres._driver import SYSTEM
from common.db.postgres._errors import FOREIGN
from common.db.postgres._names import quote, stored_size
from common.db.postgres._session import PostgresTransaction
from common.errors import AppError, ValidationError

MAX_PAYLOAD_BYTES: Final = 7_999
"""PostgreSQL documentation, NOTIFY: shorter than 8000 bytes."""

_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 10.0


@dataclass(frozen=True)
class Notification:
    """What NOTIFY sent.

    Args:
        channel: Where it was sent.
        payload: Its text.
        pid: Process id of the sender's connection on the server.
    """

    channel: str
    payload: str
    pid: int


@dataclass(frozen=True)
class Gap:
    """Notifications may have been missed here: look into the tables for what changed.

    Args:
        reason: The connection broke and was made anew, or the queue was full.
    """

    reason: Literal["reconnected", "overflow"]


Event: TypeAlias = Notification | Gap


class Listener:
    """Receives notifications, over a connection of its own that is made anew when it breaks.

    PostgreSQL keeps nothing for who does not listen. So after each new connection, and when the
    consumer was too slow for the queue, a `Gap` tells that something may be missing.

    Args:
        config: The database.
        channels: Names of the channels, at least one.
        queue_size: Most notifications that wait for the consumer.
        keepalive_seconds: How often a silent connection is checked.

    Raises:
        ValidationError: A channel's name has more than 63 bytes.
        UnsupportedOperation: With ``pgbouncer``: listen through a direct connection.
    """

    def __init__(
        self,
        config: PostgresConfig,
        channels: Sequence[str],
        *,
        queue_size: int = 10_000,
        keepalive_seconds: float = 30.0,
    ) -> None:
        if config.pgbouncer:
            raise UnsupportedOperation(
                "a pooler in transaction mode passes no notifications on: listen with the "
                "configuration of a direct connection",
                operation="listen",
                backend="postgresql",
            )
        if not channels:
            raise ValidationError("name at least one channel", field="channels")
        if queue_size < 1:
            raise ValidationError("queue_size must be at least 1", field="queue_size")
        for channel in channels:
            quote(channel)
        self._config = config
        self._channels = tuple(dict.fromkeys(channels))
        self._size = queue_size
        self._keepalive = keepalive_seconds
        self._queue: deque[Event] = deque()
        self._missed: Gap | None = None
        self._arrived = asyncio.Event()
        self._broken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._task is not None or self._closed:
            raise SessionStateError("a listener is opened once: make another", state="closed")
        connection = await self._connect()
        self._task = asyncio.create_task(self._keep(connection))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening; whoever iterates gets to the end. Idempotent."""
        self._closed = True
        self._arrived.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._queue:
                return self._queue.popleft()
            if self._missed is not None:
                missed, self._missed = self._missed, None
                return missed
            if self._closed or self._task is None:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    async def _connect(self) -> Connection:
        with operation("db", "listen", {"db.system.name": SYSTEM}):
            return await self._subscribe()

    async def _subscribe(self) -> Connection:
        connection = await connect(
            self._config,
            self._config.url,  # type: ignore[arg-type] # required by the configuration
            seconds=self._config.connect_timeout_seconds,
        )
        try:
            self._broken.clear()
            connection.add_termination_listener(self._ended)
            for channel in self._channels:
                await connection.add_listener(channel, self._received)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _keep(self, connection: Connection) -> None:
        try:
            while True:
                await self._watch(connection)
                connection.terminate()
                connection = await self._reconnect()
                self._put(Gap("reconnected"))
        finally:
            connection.terminate()

    async def _watch(self, connection: Connection) -> None:
        """Return when the connection is broken."""
        while not self._broken.is_set():
            try:
                async with asyncio.timeout(self._keepalive):
                    await self._broken.wait()
            except TimeoutError:
                try:
                    await connection.execute("SELECT", timeout=self._keepalive)
                except FOREIGN:
                    return

    async def _reconnect(self) -> Connection:
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
            try:
                return await self._connect()
            except (AppError, *FOREIGN):
                pause = min(_MAX_PAUSE, pause * 2)

    def _ended(self, _: Connection) -> None:
        self._broken.set()

    def _received(self, _: Connection, pid: int, channel: str, payload: object) -> None:
        self._put(Notification(channel, str(payload), pid))

    def _put(self, event: Event) -> None:
        if self._missed is not None and len(self._queue) < self._size:
            self._queue.append(self._missed)
            self._missed = None
        if len(self._queue) < self._size:
            self._queue.append(event)
        else:
            self._missed = event if isinstance(event, Gap) else Gap("overflow")
        self._arrived.set()


async def notify(unit: UnitOfWork, channel: str, payload: str = "") -> None:
    """Send a notification when the unit of work commits.

    Args:
        unit: Of a `PostgresDatabase`.
        channel: Name of the channel, up to 63 bytes.
        payload: Text of up to 7,999 bytes; for more, store it and send its key.

    Raises:
        ValidationError: Channel or payload is too long, or contains NUL.
    """
    session = unit.session
    if not isinstance(session, PostgresTransaction):
        raise ValidationError("this needs a unit of work of a PostgresDatabase")
    quote(channel)
    if not 0 <= stored_size(payload) <= MAX_PAYLOAD_BYTES:
        raise ValidationError(
            f"a payload has at most {MAX_PAYLOAD_BYTES} bytes and no NUL: store what is larger, "
            "and send its key",
            field="payload",
        )
    with operation("db", "notify", {"db.system.name": SYSTEM}):
        await session.run(
            lambda connection, seconds: connection.execute(
                "SELECT pg_notify($1, $2)", channel, payload, timeout=seconds
            )
        )
