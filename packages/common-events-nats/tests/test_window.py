import asyncio

import pytest

from common.events.nats._window import Window


async def entered(window: Window, size: int = 1) -> asyncio.Task[None]:
    task = asyncio.create_task(window.enter(size))
    await asyncio.sleep(0)
    return task


async def test_no_more_than_its_number_enter():
    window = Window(2, 1_000)
    first, second, third = [await entered(window) for _ in range(3)]
    assert first.done()
    assert second.done()
    assert not third.done()
    window.leave(1)
    await third


async def test_bytes_are_limited_too_and_one_large_message_still_gets_in():
    window = Window(10, 100)
    await window.enter(5_000)
    waiting = await entered(window, 1)
    assert not waiting.done()
    window.leave(5_000)
    await waiting


async def test_first_come_first_served():
    window = Window(1, 100)
    await window.enter(1)
    order: list[int] = []

    async def enter(number: int) -> None:
        await window.enter(1)
        order.append(number)
        window.leave(1)

    tasks = [asyncio.create_task(enter(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert not window.try_enter(1)
    window.leave(1)
    assert not window.try_enter(1), "nobody may overtake"
    await asyncio.gather(*tasks)
    assert order == list(range(5))


@pytest.mark.parametrize("granted", [False, True])
async def test_cancelling_loses_no_place(granted: bool):
    window = Window(1, 100)
    await window.enter(1)
    doomed = await entered(window)
    following = await entered(window)
    if granted:
        window.leave(1)  # the place is given, but the task has not run yet
        doomed.cancel()
    else:
        doomed.cancel()
        window.leave(1)
    with pytest.raises(asyncio.CancelledError):
        await doomed
    await asyncio.wait_for(following, 1)
    window.leave(1)
    assert window.try_enter(1)
