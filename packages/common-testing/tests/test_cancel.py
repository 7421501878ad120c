import asyncio

import pytest

from common.testing import cancel_at_every_await


async def test_every_await_is_cancelled_once():
    log = []

    async def work():
        for step in range(3):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                log.append(step)
                raise

    async def check():
        log.append("checked")

    assert await cancel_at_every_await(work, check) == 3
    assert log == [0, "checked", 1, "checked", 2, "checked", "checked"]


async def test_cancelling_shows_what_goes_wrong_on_the_way():
    async def work():
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise ValueError("on the way out") from None

    async def check():
        pass

    with pytest.raises(ValueError, match="on the way out"):
        await cancel_at_every_await(work, check)

    async def endless():
        while True:
            await asyncio.sleep(0)

    async def swallows():
        while True:
            try:
                await endless()
            except asyncio.CancelledError:
                return

    assert await asyncio.wait_for(cancel_at_every_await(lambda: asyncio.sleep(0), check), 5) == 1

    async def took_effect():
        raise AssertionError("took effect")

    with pytest.raises(AssertionError, match="took effect"):
        await cancel_at_every_await(swallows, took_effect)
