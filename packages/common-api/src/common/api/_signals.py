"""Signals that reach their handler later."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType


class SignalHold:
    """Keeps signals from their handlers for some seconds; a second one ends the wait.

    Args:
        signals: Which.
        seconds: For how long.
        told: Called in the event loop when the first comes.
    """

    def __init__(
        self, signals: Iterable[signal.Signals], seconds: float, told: Callable[[], None]
    ) -> None:
        self._signals = tuple(signals)
        self._seconds = seconds
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._previous = {each: signal.getsignal(each) for each in self._signals}
        self._timer: asyncio.TimerHandle | None = None
        self._held = False

    def take(self) -> None:
        """Put this in the handlers' place; from the main thread."""
        for each in self._signals:
            signal.signal(each, self._on_signal)

    def give_back(self) -> None:
        """Put the handlers back, where nobody else has taken over meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
        for each, handler in self._previous.items():
            # Methods are equal, not identical.
            if signal.getsignal(each) == self._on_signal and handler is not None:
                signal.signal(each, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._hand_on(number, frame)
        else:
            self._held = True  # at once: the next one may come before the loop turns
            self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._told()
        self._timer = self._loop.call_later(self._seconds, self._hand_on, number, None)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        handler = self._previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
