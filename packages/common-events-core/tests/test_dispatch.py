import asyncio

import pytest

from common.events.core._dispatch import Dispatcher


def dispatcher(run, *, concurrency=4):
    discarded = []

    async def discard(item):
        discarded.append(item)

    made = Dispatcher(run, concurrency=concurrency, discard=discard)
    return made, discarded


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def ended(made):
    await made.halt()
    assert await made.drain(10)


async def test_items_of_one_key_run_one_after_another_and_keys_at_once():
    running: set[str] = set()
    seen: list[tuple[str, int]] = []
    most = 0

    async def run(item):
        nonlocal most
        key, _ = item
        assert key not in running
        running.add(key)
        most = max(most, len(running))
        for _ in range(3):
            await asyncio.sleep(0)
        running.remove(key)
        seen.append(item)

    made, _ = dispatcher(run, concurrency=3)
    items = [(key, number) for number in range(20) for key in "abcde"]
    for item in items:
        made.put(item, item[0])
    await until(lambda: len(seen) == len(items))
    assert most == 3
    for key in "abcde":
        assert [number for each, number in seen if each == key] == list(range(20))
    assert not made._lanes
    await ended(made)


async def test_concurrency_without_keys_is_reached_and_not_exceeded():
    gate = asyncio.Event()
    running = most = 0

    async def run(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    made, _ = dispatcher(run, concurrency=7)
    for number in range(50):
        made.put(number)
    await until(lambda: running == 7)
    assert made.workers == 7
    gate.set()
    await until(lambda: running == 0 and not made._ready)
    assert most == 7
    await ended(made)


async def test_an_item_that_waits_holds_its_key_but_no_worker():
    seen = []

    async def run(item):
        seen.append(item)
        return 0.02 if seen.count(item) < 3 and item == "a1" else None

    made, _ = dispatcher(run, concurrency=1)
    made.put("a1", "a")
    made.put("a2", "a")
    made.put("b1", "b")
    await until(lambda: len(seen) == 5)
    assert seen == ["a1", "b1", "a1", "a1", "a2"]
    await ended(made)


async def test_halting_discards_what_waits_but_behind_what_runs_only_when_that_ends():
    gate = asyncio.Event()

    async def run(item):
        if item == "sleeper":
            return 60
        await gate.wait()
        return None

    made, discarded = dispatcher(run, concurrency=2)
    made.put("sleeper", "s")
    made.put("behind the sleeper", "s")
    await until(lambda: made._sleeping)
    for item, key in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c"), ("c2", "c"), ("d", None)]:
        made.put(item, key)
    await until(lambda: len(made._ready) == 2)
    await made.halt()
    assert sorted(discarded) == sorted(["sleeper", "behind the sleeper", "c1", "c2", "d"])
    gate.set()
    assert await made.drain(10)
    assert sorted(discarded) == sorted(["sleeper", "behind the sleeper", "c1", "c2", "d", "a2"])
    assert not made._lanes
    assert made.workers == 0


async def test_cancelling_discards_what_waits_behind():
    async def run(item):
        await asyncio.Event().wait()

    made, discarded = dispatcher(run)
    made.put("a1", "a")
    made.put("a2", "a")
    await until(lambda: made.workers == 1)
    await asyncio.sleep(0)
    await made.halt()
    assert discarded == []
    assert not await made.drain(0.01)
    made.cancel()
    assert await made.drain(10)
    assert discarded == ["a2"]


async def test_a_worker_that_an_item_has_cancelled_is_replaced():
    seen = []

    async def run(item):
        if item == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        seen.append(item)

    made, _ = dispatcher(run, concurrency=1)
    for number in range(5):
        made.put(number)
    await until(lambda: len(seen) == 4)
    assert seen == [1, 2, 3, 4]
    await ended(made)


async def test_what_may_overtake_does_so_at_random_but_never_within_its_key():
    seen = []

    async def run(item):
        seen.append(item)

    firsts = set()
    for _ in range(200):
        made, _ = dispatcher(run, concurrency=1)
        for number in range(10):
            for key in "ab":
                made.put((key, number), key, anywhere=True)
        await until(lambda: len(seen) == 20)
        for key in "ab":
            assert [number for found, number in seen if found == key] == list(range(10))
        firsts.add(seen[0])
        seen.clear()
        await ended(made)
    assert firsts == {("a", 0), ("b", 0)}


async def test_idle_workers_end_when_halted():
    async def run(item):
        await asyncio.sleep(0)

    made, _ = dispatcher(run, concurrency=8)
    for number in range(100):
        made.put(number)
    await until(lambda: len(made._idle) == 8)
    assert made.workers == 8
    await ended(made)


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_nothing_is_lost_when_items_come_and_go_at_any_time(concurrency):
    seen = []

    async def run(item):
        for _ in range(item % 3):
            await asyncio.sleep(0)
        seen.append(item)

    made, _ = dispatcher(run, concurrency=concurrency)
    for number in range(2000):
        made.put(number, str(number % 7) if number % 2 else None)
        if number % 11 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(seen) == 2000)
    assert sorted(seen) == list(range(2000))
    assert not made._lanes
    await ended(made)


async def test_items_that_never_suspend_leave_others_their_turn():
    turns = done = 0

    async def run(item):
        nonlocal done
        done += 1

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    made, _ = dispatcher(run)
    for number in range(1000):
        made.put(number)
    await until(lambda: done == 1000)
    assert turns > 10
    task.cancel()
    await ended(made)
