import asyncio
from contextvars import ContextVar

import pytest

from common.events.core._isolate import isolated

variable: ContextVar[str] = ContextVar("variable", default="outside")


async def test_what_the_body_binds_is_gone_afterwards_and_kept_over_its_awaits():
    async def body():
        variable.set("inside")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return variable.get()

    assert await isolated(body()) == "inside"
    assert variable.get() == "outside"


async def test_tasks_of_the_body_see_its_context():
    async def child():
        return variable.get()

    async def body():
        variable.set("inside")
        return await asyncio.create_task(child())

    assert await isolated(body()) == "inside"


async def test_errors_come_out_and_cancellation_goes_in():
    async def fails():
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await isolated(fails())

    seen = []

    async def waits():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(variable.get())
            await asyncio.sleep(0)
            return "cleaned up"
        finally:
            variable.set("late")

    task = asyncio.create_task(_await(waits()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"
    assert seen == ["outside"]


async def test_timeouts_work_inside():
    async def body():
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await isolated(body())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_closing_it_closes_the_body():
    closed = []

    async def body():
        try:
            await asyncio.sleep(10)
        finally:
            closed.append(True)

    async def outer():
        await isolated(body())

    loop = asyncio.new_event_loop()
    try:

        async def start():
            coroutine = outer()
            coroutine.send(None)
            coroutine.close()

        loop.run_until_complete(start())
    finally:
        loop.close()
    assert closed == [True]


async def _await(coroutine):
    return await isolated(coroutine)
