"""Cancelling at every await: the n-th suspension, for every n."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

_MOST_AWAITS = 2_000


async def cancel_at_every_await(
    start: Callable[[], Coroutine[Any, Any, object]],
    check: Callable[[], Awaitable[object]],
) -> int:
    """Run a coroutine again and again, cancelled at its first suspension, its second, and so on.

    Each run is a task of its own. `check` runs after each, also after the last, which was
    suspended too seldom to be cancelled and so ran to its end.

    Args:
        start: Makes the coroutine.
        check: Raises when what must hold does not hold; may also prepare the next run.

    Returns:
        The number of runs that were cancelled.

    Example:
        >>> async def twice():
        ...     await asyncio.sleep(0)
        ...     await asyncio.sleep(0)
        >>> async def fine():
        ...     pass
        >>> asyncio.run(cancel_at_every_await(twice, fine))
        2
    """
    for target in range(1, _MOST_AWAITS):
        task = asyncio.ensure_future(_cancelled_at(start(), target))
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        was_cancelled = isinstance(outcome, asyncio.CancelledError)
        if isinstance(outcome, BaseException) and not was_cancelled:
            raise outcome
        await check()
        if not was_cancelled:
            return target - 1
    raise AssertionError(f"it was suspended more than {_MOST_AWAITS} times")


async def _cancelled_at(coroutine: Coroutine[Any, Any, object], target: int) -> object:
    return await _steps(coroutine, target)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, object], target: int) -> Generator[Any, Any, object]:
    """Drive the coroutine; have the task cancelled while it is suspended for the n-th time."""
    step = 0
    error: BaseException | None = None
    while True:
        try:
            waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        step += 1
        task = asyncio.current_task()
        if step == target and task is not None:
            task.cancel()
        error = None
        try:
            yield waits_for
        except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine
            error = thrown
