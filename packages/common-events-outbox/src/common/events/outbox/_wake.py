"""What ends a relay's sleep: a notification, the relay itself, or time."""

import asyncio
import logging
import random
from types import TracebackType
from typing import Final, Self

from common.db.core import UnsupportedOperation
from common.db.postgres import Notification, PostgresDatabase
from common.events.outbox._lease import LEASES_CHANGED

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.2
_MAX_PAUSE: Final = 30.0


class Wake:
    """Sleeps until something may have to be done.

    Listening is a convenience: while it fails, sleep ends by time.

    Args:
        database: Whose notifications end the sleep.
        channel: On which they come.
    """

    def __init__(self, database: PostgresDatabase, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.listening = False
        self.payloads: set[str] = set()
        """What was notified since the last sleep; see `Leases`."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def now(self) -> None:
        """End the sleep, or the next one."""
        self._event.set()

    def forget(self) -> None:
        """What wakes from here on counts for the next sleep."""
        self._event.clear()
        self.payloads.clear()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or when there is a reason to be awake since `forget`."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            pass

    def _note(self, payload: str) -> None:
        self.payloads.add(payload)
        self.now()

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._database.listen(self._channel, queue_size=1_000) as listener:
                    self.listening = True
                    pause = _FIRST_PAUSE
                    self._note(LEASES_CHANGED)  # as may have been told before
                    async for event in listener:
                        if isinstance(event, Notification):
                            self._note(event.payload[:100])
                        else:
                            self._note(LEASES_CHANGED)
            except UnsupportedOperation:  # through a pooler
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the relay works without
                log.debug("Listening failed: %s", type(error).__name__)
            finally:
                self.listening = False
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(_MAX_PAUSE, pause * 2)
