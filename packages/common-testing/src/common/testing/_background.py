"""Runs a coroutine for synchronous code, whatever loop the caller may have."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop and a thread of its own, and return its result.

    `asyncio.run` would fail in a fixture that an async test asks for, and would take away the
    loop that other plugins have set. The thread is a daemon: Ctrl-C need not wait for it.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread, below
            errors.append(error)

    thread = threading.Thread(target=work, name="common-testing", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
