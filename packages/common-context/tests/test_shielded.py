import asyncio

import pytest

from common.context import shielded
from common.testing import cancel_at_every_await


async def test_what_is_shielded_ends_before_its_task_does():
    done = []

    async def slow():
        for _ in range(3):
            await asyncio.sleep(0)
        done.append(1)
        return "result"

    async def fails():
        await asyncio.sleep(0)
        raise ValueError

    assert await shielded(slow()) == "result"
    with pytest.raises(ValueError):
        await shielded(fails())
    done.clear()

    async def check():
        assert done == [1]
        done.clear()

    assert await cancel_at_every_await(lambda: shielded(slow()), check) >= 1

    async def nothing():
        pass

    async def expect_value_error():
        with pytest.raises(ValueError):
            await shielded(fails())

    await cancel_at_every_await(expect_value_error, nothing)
    task = asyncio.ensure_future(shielded(slow()))
    for _ in range(2):  # cancelled twice while it finishes
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_a_body_is_told_of_each_cancellation_to_make_it_hurry():
    hurry = asyncio.Event()
    task = asyncio.ensure_future(shielded(hurry.wait(), hurry.set))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert hurry.is_set()


async def test_a_task_of_ones_own_may_be_cancelled_itself():
    body = asyncio.ensure_future(asyncio.sleep(60))
    task = asyncio.ensure_future(shielded(body))
    await asyncio.sleep(0)
    body.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert task.cancelled()
