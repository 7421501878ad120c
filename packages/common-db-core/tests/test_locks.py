import asyncio

import pytest

from common.db.core import Deadlock, LockTimeout
from common.db.core._locks import Locks


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_locks_are_given_in_turn():
    locks, order = Locks(10), []

    async def work(name):
        await locks.acquire(name, "row")
        order.append(name)
        await settle()
        locks.release(name)

    await asyncio.gather(*(work(name) for name in "abcd"))
    assert order == list("abcd")
    assert (locks._owners, locks._held, locks._waiting, locks._wants) == ({}, {}, {}, {})


async def test_who_holds_a_lock_gets_it_again():
    locks = Locks(10)
    await locks.acquire("a", "row")
    await locks.acquire("a", "row")
    locks.release("a")
    assert locks._owners == {}


async def test_a_cancelled_waiter_leaves_the_queue():
    locks = Locks(10)
    await locks.acquire("a", "row")
    waiting = [asyncio.ensure_future(locks.acquire(name, "row")) for name in "bcd"]
    await settle()
    waiting[0].cancel()
    waiting[1].cancel()
    locks.release("a")  # before the cancelled ones could leave
    await settle()
    assert [task.cancelled() for task in waiting] == [True, True, False]
    assert locks._owners == {"row": "d"}
    locks.release("d")
    assert (locks._waiting, locks._wants) == ({}, {})


async def test_a_circle_of_waiters_is_a_deadlock_of_the_one_who_closes_it():
    locks = Locks(10)
    a, b, c = object(), object(), object()
    for owner in (a, b, c):
        await locks.acquire(owner, owner)
    one = asyncio.ensure_future(locks.acquire(a, b))
    two = asyncio.ensure_future(locks.acquire(b, c))
    await settle()
    with pytest.raises(Deadlock):
        await locks.acquire(c, a)
    locks.release(c)
    await two
    locks.release(b)
    await one
    locks.release(a)
    assert locks._owners == {}


async def test_waiting_for_a_lock_ends():
    locks = Locks(0.01)
    await locks.acquire("a", "row")
    with pytest.raises(LockTimeout) as caught:
        await locks.acquire("b", "row")
    assert caught.value.timeout_seconds == 0.01
    locks.release("b")
    locks.release("a")
    assert (locks._owners, locks._waiting, locks._wants) == ({}, {}, {})
