"""Runs what must not stop half way to its end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded(
    body: "Coroutine[Any, Any, T] | asyncio.Task[T]",
    on_cancel: Callable[[], None] | None = None,
) -> T:
    """Await ``body`` to its end even if the caller is cancelled, and only then be cancelled.

    Args:
        body: What has a bound of its own, such as closing a connection.
        on_cancel: Called when the caller is cancelled, to make the body hurry.
    """
    task = asyncio.ensure_future(body)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
            if on_cancel is not None:
                on_cancel()
        except Exception:  # noqa: BLE001 - raised below, where cancellation comes first
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: nothing is left to warn about
        raise cancelled
    return task.result()
