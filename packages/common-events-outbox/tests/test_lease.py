"""How relays share the partitions."""

import asyncio

from outbox_support import Lit, add, connect, count, emptied, make_relay, run_sql, until, value

from common.events.core import InMemoryTransport
from common.events.outbox._lease import Leases
from common.events.outbox._sql import fetch, names_of


def leases(database, owner: str, seconds: float = 30) -> Leases:
    return Leases(database, names_of(database), owner=owner, seconds=seconds)


async def test_relays_share_evenly_and_a_newcomer_gets_its_part(database):
    a, b, c = (leases(database, each, 600) for each in "abc")
    await a.keep()
    assert len(a.held) == 64
    await b.keep()
    assert len(b.held) == 0  # nothing was free
    assert b.due <= 1  # but it looks again soon
    await a.keep()
    await b.keep()
    assert (len(a.held), len(b.held)) == (32, 32)
    for _ in range(2):
        for each in (c, a, b):
            await each.keep()
    await c.keep()
    assert sorted(len(each.held) for each in (a, b, c)) == [21, 21, 22]
    assert len({*a.held, *b.held, *c.held}) == 64
    # Nobody lacks anything, so nobody asks more often than leases want.
    assert all(each.due > 100 for each in (a, b, c))


async def test_a_partition_has_one_holder_however_many_grab_at_once(postgres_url):
    async with connect(postgres_url) as database:
        relays = [leases(database, str(n)) for n in range(6)]
        for _ in range(4):
            await asyncio.gather(*[each.keep() for each in relays])
        held = [partition for each in relays for partition in each.held]
        assert len(held) == len(set(held)) == 64


async def test_a_lease_that_ran_out_goes_to_another_under_a_higher_fence(database):
    a, b = leases(database, "a", 1), leases(database, "b")
    await a.keep()
    before = dict(a.held)

    async def taken() -> bool:
        await b.keep()
        return len(b.held) == 64

    await until(taken)
    assert a.left <= 0
    assert all(b.held[each] > fence for each, fence in before.items())
    await a.renew()
    assert a.held == {}
    assert await value(database, "SELECT count(*) FROM outbox_relay WHERE owner = 'a'") == 0


async def test_a_lease_that_ran_out_but_nobody_wanted_is_kept(database):
    a = leases(database, "a", 1)
    await a.keep()
    fences = dict(a.held)
    await run_sql(
        database, "UPDATE outbox_lease SET expires_at = clock_timestamp() - '1s'::interval"
    )
    await a.renew()
    assert a.held == fences
    assert a.left > 0


async def test_a_relay_that_stands_still_in_a_transaction_holds_up_nobody(database):
    a, b = leases(database, "a"), leases(database, "b")
    await a.keep()
    await run_sql(
        database, "UPDATE outbox_relay SET expires_at = clock_timestamp() - interval '1 s'"
    )
    async with database.transaction() as tx:  # it was paused, or its host vanished
        touched = "UPDATE outbox_relay SET waiting = waiting WHERE owner = 'a'"
        await fetch(tx, "update", "outbox_relay", touched)
        await fetch(tx, "update", "outbox_lease", "UPDATE outbox_lease SET fence = fence")
        async with asyncio.timeout(20):
            await b.keep()
    await b.keep()
    assert await value(database, "SELECT string_agg(owner, '') FROM outbox_relay") == "b"


async def test_renewing_in_the_midst_of_a_batch_does_not_put_off_sharing_anew(database):
    a = leases(database, "a")
    await a.keep()
    assert not a.fading
    a.share_anew()
    await a.renew()
    assert a.due <= 0


async def test_emptied_tables_are_filled_again(database, transport):
    """As by tests that truncate all tables between them."""

    async def truncate() -> None:  # One by one: it deadlocks with a relay that has another
        await run_sql(database, "TRUNCATE outbox_lease")
        await run_sql(database, "TRUNCATE outbox_relay")

    await truncate()
    async with make_relay(database, transport) as relay:
        await add(database, Lit(lamp="a"))
        await emptied(database)
        await truncate()
        relay._leases.share_anew()
        await add(database, Lit(lamp="a"))
        await emptied(database)


async def test_a_relay_that_was_forgotten_tells_again_that_it_is_busy(database):
    a = leases(database, "a")
    assert await a.keep()
    assert not await a.keep()
    await run_sql(database, "DELETE FROM outbox_relay")
    assert await a.keep()


async def test_more_relays_than_partitions_leave_some_without(database):
    relays = [leases(database, f"{n:02}", 600) for n in range(66)]
    for _ in range(2):
        for each in relays:
            await each.keep()
    held = [len(each.held) for each in relays]
    assert held == [1] * 64 + [0] * 2
    assert all(each.due > 100 for each in relays)


async def test_what_is_handed_back_is_taken_at_once(database, broker, transport):
    """No poll and no lease would end in this test's time: the relays tell each other."""
    slow = {"poll_interval_seconds": 600, "lease_seconds": 600}
    async with InMemoryTransport(broker) as other:
        first, second = make_relay(database, transport, **slow), make_relay(database, other, **slow)
        async with second:
            async with first:
                await until(lambda: len(first._leases.held) == len(second._leases.held) == 32)
            await until(lambda: len(second._leases.held) == 64)
            await add(database, *[Lit(lamp=str(n)) for n in range(100)])

            async def empty() -> bool:
                return await count(database) == 0

            await until(empty)
