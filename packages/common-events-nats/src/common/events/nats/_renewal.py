"""Doing something anew whenever its outcome is in doubt, no matter how often that fails."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from common.errors import AppError, MessageBusError, is_retryable, wrap

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 5.0


class Care(Protocol):
    """See `Renewal`."""

    async def __call__(self, *, quiet: bool) -> None: ...


class Renewal:
    """Renews what a consumer has asked for, with pauses that grow while it fails.

    Args:
        name: Of the task, and in messages.
        ready: Waits until there is any use in it.
        renew: What is done when there is doubt.
        care: Called after each wait that brought no doubt, with whether it was in vain.
        seconds: Returns how long to wait at most.
        lost: Called with the error that ends it all.
    """

    def __init__(
        self,
        name: str,
        *,
        ready: Callable[[], Awaitable[object]],
        renew: Callable[[], Awaitable[None]],
        care: Care,
        seconds: Callable[[], float],
        lost: Callable[[AppError], None],
    ) -> None:
        self._name = name
        self._ready = ready
        self._renew = renew
        self._care = care
        self._seconds = seconds
        self._lost = lost
        self._doubt = False
        self._confirmed = False
        self._woken = asyncio.Event()
        self._restarted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to wait for doubt."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Renew no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def doubt(self) -> None:
        """Renew soon."""
        self._doubt = True
        self._woken.set()

    def restart(self) -> None:
        """Renew at once: what has failed before says nothing about a new connection."""
        self._restarted.set()
        self.doubt()

    def wake(self) -> None:
        """Let ``care`` be called at once."""
        self._woken.set()

    def confirm(self) -> None:
        """Say that the last renewal did what it should."""
        self._confirmed = True

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                await self._watch()
                failures = 0 if self._confirmed else failures + 1
                if failures > 1:
                    await self._rest(_pause(failures))
                await self._ready()
                if self._restarted.is_set():
                    failures = 0
                self._restarted.clear()
                self._doubt = self._confirmed = False
                try:
                    await self._renew()
                except MessageBusError as error:
                    if not is_retryable(error):
                        raise
                    log.info("%s: %s", self._name, error)
                    self.doubt()
        except AppError as error:
            self._lost(error)
        except Exception as error:
            log.exception("%s has failed", self._name)
            self._lost(wrap(error, MessageBusError, f"{self._name} has failed", retryable=False))

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._restarted.wait()

    async def _watch(self) -> None:
        while not self._doubt:
            quiet = False
            try:
                async with asyncio.timeout(self._seconds()):
                    await self._woken.wait()
            except TimeoutError:
                quiet = True
            self._woken.clear()
            if not self._doubt:
                await self._care(quiet=quiet)


def _pause(failures: int) -> float:
    longest = min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 20))
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret
