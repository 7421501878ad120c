"""Waiting for tasks without taking their results or ending them."""

import asyncio


async def first(task: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait for a task to end or an event to be set; the task goes on."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def ended(task: "asyncio.Task[None]") -> None:
    """Wait for a task to end, however it does."""
    await asyncio.gather(task, return_exceptions=True)
