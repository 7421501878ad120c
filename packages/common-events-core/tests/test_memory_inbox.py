import asyncio
from contextlib import asynccontextmanager

import pytest

from common.events.core._memory_inbox import MemoryInbox


async def test_a_second_transaction_says_that_the_message_was_handled():
    inbox = MemoryInbox()
    for consumer in ("billing", "search"):
        for expected in (False, True, True):
            async with inbox.transaction(consumer, "1") as opened:
                assert opened.duplicate is expected
                assert opened.transaction is None
        assert inbox.handled(consumer, "1")
        assert not inbox.handled(consumer, "2")


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_what_failed_was_not_handled(error):
    inbox = MemoryInbox()
    with pytest.raises(error):
        async with inbox.transaction("billing", "1"):
            raise error
    assert not inbox.handled("billing", "1")
    async with inbox.transaction("billing", "1") as opened:
        assert not opened.duplicate


async def test_the_mark_and_the_effect_commit_together():
    log = []

    @asynccontextmanager
    async def begin():
        log.append("begin")
        try:
            yield log
        except BaseException:
            log.append("rolled back")
            raise
        assert not inbox.handled("billing", "1")
        log.append("committed")

    async def handle(error=None):
        async with inbox.transaction("billing", "1") as opened:
            opened.transaction.append("effect")
            if error:
                raise error

    inbox = MemoryInbox(begin)
    with pytest.raises(ValueError, match="no"):
        await handle(ValueError("no"))
    await handle()
    assert log == ["begin", "effect", "rolled back", "begin", "effect", "committed"]
    assert inbox.handled("billing", "1")


async def test_a_commit_that_fails_leaves_no_mark():
    @asynccontextmanager
    async def begin():
        yield
        raise OSError("disk full")

    inbox = MemoryInbox(begin)
    with pytest.raises(OSError, match="disk full"):
        async with inbox.transaction("billing", "1"):
            pass
    assert not inbox.handled("billing", "1")


@pytest.mark.parametrize("fails", [False, True])
async def test_the_second_of_two_at_once_waits_for_the_first(fails):
    inbox, log = MemoryInbox(), []

    async def first():
        async with inbox.transaction("billing", "1"):
            log.append("in the first")
            await go.wait()
            log.append("out of the first")
            if fails:
                raise ValueError

    async def second():
        async with inbox.transaction("billing", "1") as opened:
            log.append(opened.duplicate)

    go = asyncio.Event()
    tasks = [asyncio.create_task(one()) for one in (first, second, second)]
    async with asyncio.timeout(30):
        while not log:
            await asyncio.sleep(0)
        async with inbox.transaction("billing", "2") as other:
            assert not other.duplicate, "other messages do not wait"
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert log == ["in the first", "out of the first", not fails]


async def test_the_oldest_marks_go():
    inbox = MemoryInbox(max_marks=3)
    for number in range(5):
        async with inbox.transaction("billing", str(number)):
            pass
    assert [inbox.handled("billing", str(number)) for number in range(5)] == [False] * 2 + [
        True
    ] * 3
    with pytest.raises(ValueError, match="at least 1"):
        MemoryInbox(max_marks=0)
