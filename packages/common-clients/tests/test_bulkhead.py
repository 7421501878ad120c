"""The bulkhead: limits, order, and what cancelled waiters leave behind."""

import asyncio
import random
from typing import Any

import pytest

from common.clients import Bulkhead, BulkheadFullError
from common.context import DeadlineExceeded, deadline


async def occupy(bulkhead, release, order=None, name=None):
    async with bulkhead:
        if order is not None:
            order.append(name)
        await release.wait()


async def ticks(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_run_and_no_more_than_the_queue_wait():
    bulkhead = Bulkhead("billing", limit=3, queue=2)
    release = asyncio.Event()
    tasks = [asyncio.create_task(occupy(bulkhead, release)) for _ in range(10)]
    await ticks()
    assert (bulkhead.active, bulkhead.waiting) == (3, 2)
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(BulkheadFullError) == 5
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


async def test_a_full_bulkhead_is_a_retryable_503_with_a_code():
    bulkhead = Bulkhead("billing", limit=1)
    async with bulkhead:
        with pytest.raises(BulkheadFullError, match="billing") as raised:
            async with bulkhead:
                pass
    error = raised.value
    assert (error.code, error.status, error.retryable) == ("BULKHEAD_FULL", 503, True)


async def test_who_comes_first_is_served_first():
    bulkhead = Bulkhead("billing", limit=1, queue=10)
    order: list[int] = []
    release = asyncio.Event()
    release.set()
    async with bulkhead:
        tasks = [
            asyncio.create_task(occupy(bulkhead, release, order, number)) for number in range(10)
        ]
        await ticks()
    late = asyncio.create_task(occupy(bulkhead, release, order, "late"))
    await asyncio.gather(*tasks, late)
    assert order == [*range(10), "late"]


async def test_nobody_waits_longer_than_max_wait():
    bulkhead = Bulkhead("billing", limit=1, queue=1, max_wait=0.01)
    async with bulkhead:
        with pytest.raises(BulkheadFullError, match=r"0\.01 s"):
            async with bulkhead:
                pass
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


@pytest.mark.parametrize("how", ["max_wait", "cancelled"])
async def test_who_gave_up_waiting_takes_no_place_in_the_queue(how, skip):
    bulkhead = Bulkhead("billing", limit=1, queue=1, max_wait=60 if how == "max_wait" else None)
    async with bulkhead:
        for _ in range(3):
            waiter = asyncio.create_task(bulkhead.__aenter__())
            await ticks()
            assert bulkhead.waiting == 1
            if how == "cancelled":
                waiter.cancel()
            else:
                skip(61)
            expected = BulkheadFullError if how == "max_wait" else asyncio.CancelledError
            with pytest.raises(expected):
                await waiter
            assert bulkhead.waiting == 0


async def test_nobody_waits_longer_than_the_deadline():
    bulkhead = Bulkhead("billing", limit=1, queue=1, max_wait=60)
    async with bulkhead:
        with pytest.raises(DeadlineExceeded), deadline(0.01):
            await bulkhead.__aenter__()
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)


async def test_a_waiter_cancelled_as_its_turn_comes_passes_it_on():
    bulkhead = Bulkhead("billing", limit=1, queue=2)
    release = asyncio.Event()
    first = asyncio.create_task(occupy(bulkhead, release))
    await ticks()
    second = asyncio.create_task(occupy(bulkhead, release))
    third = asyncio.create_task(occupy(bulkhead, release))
    await ticks()
    first.cancel()
    await asyncio.sleep(0)  # the turn is given to the second, which has not run yet
    second.cancel()
    await ticks()
    assert (bulkhead.active, bulkhead.waiting) == (1, 0)
    release.set()
    await third
    assert bulkhead.active == 0


@pytest.mark.parametrize("seed", range(5))
async def test_cancelling_anyone_at_any_time_leaks_nothing(seed):
    chance = random.Random(seed)
    bulkhead = Bulkhead("billing", limit=3, queue=20, max_wait=0.005)
    most = 0

    async def call():
        nonlocal most
        async with bulkhead:
            most = max(most, bulkhead.active)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(call()))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= 3
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)
    async with bulkhead, asyncio.timeout(60):
        await asyncio.gather(call(), call())


async def test_as_decorator():
    @Bulkhead("billing", limit=1)
    async def call(number: int) -> int:
        return number

    assert await call(3) == 3


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"queue": -1}, {"max_wait": -1}, {"name": 5}], ids=str
)
def test_misconfiguration_names_the_field(options):
    given: dict[str, Any] = {"name": "billing", "limit": 1, **options}
    with pytest.raises(ValueError, match=next(iter(options))):
        Bulkhead(**given)
