"""Running what must not stop half way to its end."""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import CancelledError, Task
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


async def shielded(
    body: "Coroutine[Any, Any, T] | Task[T]",
    on_cancel: "Callable[[], None] | None" = None,
) -> T:
    """Await ``body`` to its end even if the caller is cancelled, and only then be cancelled.

    `asyncio.shield` alone lets the caller go on at once, while the body still runs.

    Args:
        body: What must not stop half way and has a bound of its own, such as a commit, a
            rollback, or closing a connection.
        on_cancel: Called when the caller is cancelled, to make the body hurry.

    Raises:
        asyncio.CancelledError: The caller was cancelled; this comes before the body's own error.

    Example:
        >>> import asyncio
        >>> async def commit():
        ...     await asyncio.sleep(0)
        ...     return "done"
        >>> asyncio.run(shielded(commit()))
        'done'
    """
    import asyncio  # noqa: PLC0415 - costly, and running already

    task = asyncio.ensure_future(body)
    cancelled: CancelledError | None = None
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
