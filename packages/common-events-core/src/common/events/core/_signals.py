"""SIGTERM and SIGINT while a bus runs."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def on_signals(signals: tuple[signal.Signals, ...], call: Callable[[], None]) -> Generator[None]:
    """Call ``call`` for the first two signals; what comes after is handled as before.

    Does nothing outside the main thread and where the event loop knows no signals (Windows).
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}
    seen = 0

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def received() -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            restore()
        call()

    try:
        for number in signals:
            handler = signal.getsignal(number)
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, received)
                before[number] = handler
        yield
    finally:
        restore()
