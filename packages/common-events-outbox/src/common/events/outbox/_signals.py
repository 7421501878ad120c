"""SIGTERM and SIGINT while a relay runs."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(signals: tuple[signal.Signals, ...], call: Callable[[], None]) -> Generator[None]:
    """Call ``call`` for each of these signals, in place of what was done before.

    Does nothing outside the main thread and where the event loop knows no signals (Windows).
    """
    loop = asyncio.get_running_loop()
    before = {}
    try:
        for number in signals:
            handler = signal.getsignal(number)
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, call)
                before[number] = handler
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
