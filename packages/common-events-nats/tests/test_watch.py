import asyncio

import pytest
from nats_consuming import Nats, connected, eventually, until

from common.errors import MessageBusError
from common.events.core._errors import BrokerUnavailable, TransportClosed
from common.events.nats import BucketNotFound, KeyValue, open_key_value
from common.events.nats._watch import Watch
from common.testing import FaultProxy, NatsCluster, NatsServer


@pytest.fixture
async def bucket(nats: Nats):
    return await open_key_value(nats.connection, "b", history=5)


async def put(bucket: KeyValue, key: str, value: bytes) -> None:
    """Put it, again while the servers are away."""
    async with asyncio.timeout(60):
        while True:
            try:
                await bucket.put(key, value)
            except MessageBusError:
                await asyncio.sleep(0.1)
            else:
                return


async def values(changes, last: bytes, after: int = 0) -> list[bytes]:
    """Return what comes, up to a value, without what was put twice; no revision comes twice."""
    found: dict[bytes, None] = {}
    async with asyncio.timeout(60):
        async for entry in changes:
            assert entry.revision > after
            after = entry.revision
            found[entry.value] = None
            if entry.value == last:
                return list(found)
    raise AssertionError(found)


@pytest.mark.parametrize("how", ["kill", "cut", "drop"])
async def test_a_watch_goes_on_after_faults_and_repeats_nothing(how):
    async with (
        NatsServer() as server,
        FaultProxy(server.url) as proxy,
        connected(server.url) as operator,
        connected(proxy.url(server.url), ping_interval_seconds=0.5) as nats,
    ):
        writing = await open_key_value(operator.connection, "b", history=64)
        watched = await open_key_value(nats.connection, "b")
        await writing.put("a", b"begin")
        async with watched.watch() as changes:
            assert (await anext(changes)).value == b"begin"
            for turn in range(3):
                match how:
                    case "kill":
                        server.kill()
                        await server.restart()
                    case "cut":
                        proxy.refuse()
                        proxy.cut()
                    case _:
                        proxy.drop(direction="downstream")
                wanted = [b"%d.%d" % (turn, n) for n in range(5)]
                for value in wanted:
                    await put(writing, "a", value)
                proxy.heal()
                assert await values(changes, wanted[-1]) == wanted


async def test_a_watch_in_a_cluster_outlives_the_leader_of_its_bucket():
    async with NatsCluster(3) as cluster, connected(cluster.urls) as nats:
        bucket = await eventually(
            lambda: open_key_value(nats.connection, "b", replicas=3, history=64)
        )
        await put(bucket, "a", b"begin")
        # A consumer in a cluster begins with an election, which takes a busy machine its time.
        patient = await eventually(lambda: open_key_value(nats.connection, "b", timeout=60))
        async with patient.watch() as changes:
            assert (await anext(changes)).value == b"begin"
            (await cluster.leader("KV_b", timeout=60)).kill()
            wanted = [b"%d" % n for n in range(20)]
            for value in wanted:
                await put(bucket, "a", value)
            assert await values(changes, wanted[-1]) == wanted


async def test_a_watch_of_a_bucket_that_is_deleted_says_so(nats: Nats, bucket: KeyValue):
    async with bucket.watch() as changes:
        await nats.api.request("STREAM.DELETE.KV_b")
        with pytest.raises(BucketNotFound):
            async with asyncio.timeout(60):
                await anext(changes)


async def test_a_bucket_made_anew_is_watched_from_its_beginning(nats: Nats, bucket: KeyValue):
    for number in range(20):
        await bucket.put("a", b"%d" % number)
    async with bucket.watch() as changes:
        assert (await anext(changes)).value == b"19"
        config = (await nats.api.request("STREAM.INFO.KV_b"))["config"]
        await nats.api.request("STREAM.DELETE.KV_b")
        await nats.api.request("STREAM.CREATE.KV_b", config)
        await bucket.put("a", b"new")
        try:
            assert await values(changes, b"new") == [b"new"]
        except BucketNotFound:
            pytest.skip("it was looked for before it was there again")


async def test_a_closed_connection_ends_a_watch_and_leaving_it_raises_nothing_more(
    nats: Nats, bucket: KeyValue
):
    async with bucket.watch() as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await nats.connection.close()
        async with asyncio.timeout(60):
            with pytest.raises(TransportClosed):
                await waiting


async def test_a_reader_that_is_slow_keeps_no_more_than_it_asked_for(
    nats: Nats, bucket: KeyValue, nats_url: str
):
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as behind:
        watched = await open_key_value(behind.connection, "b")
        watch = Watch(behind.connection, behind.api, "b", ">", keys_only=False)
        for number in range(300):
            await bucket.put(f"k{number}", b"%d" % number)
        await watch.start()
        try:
            for turn in range(3):
                before = watch._pull.renewals

                async def full() -> bool:
                    return len(watch._entries) == 64

                await until(full)
                assert (await watch.next()).key == f"k{turn}"
                proxy.cut()

                async def renewed(before: int = before) -> bool:
                    return watch._pull.renewals > before

                await until(renewed)
            assert [(await watch.next()).key for _ in range(297)] == [
                f"k{number}" for number in range(3, 300)
            ]
            assert sorted(await watched.keys()) == sorted(f"k{number}" for number in range(300))
        finally:
            await watch.close()


async def test_what_is_lost_between_servers_is_asked_for_again(nats: Nats, bucket: KeyValue):
    watch = Watch(nats.connection, nats.api, "b", ">", keys_only=False)
    await watch.start()
    try:
        await bucket.put("a", b"1")
        assert (await watch.next()).value == b"1"
        watch._delivered -= 1  # as if a number was left out
        await bucket.put("a", b"2")
        await bucket.put("a", b"3")
        async with asyncio.timeout(60):
            assert [(await watch.next()).value for _ in range(2)] == [b"2", b"3"]
        assert watch._pull.renewals >= 1
    finally:
        await watch.close()


async def test_a_watch_leaves_no_task_no_subscription_and_no_consumer(nats: Nats, bucket: KeyValue):
    await bucket.put("a", b"1")
    tasks, subscriptions = len(asyncio.all_tasks()), len(nats.connection.nc.sinks)
    for _ in range(3):
        await bucket.keys()
        async with bucket.watch() as changes:
            await anext(changes)
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert len(asyncio.all_tasks()) <= tasks
    assert len(nats.connection.nc.sinks) == subscriptions

    async def none_left() -> bool:
        info = await nats.api.request("STREAM.INFO.KV_b")
        return info["state"]["consumer_count"] == 0

    await until(none_left)


async def test_a_watch_that_is_cancelled_while_it_begins_leaves_nothing(
    nats: Nats, bucket: KeyValue
):
    await bucket.get("a")  # nats-py's own tasks are there
    tasks, subscriptions = len(asyncio.all_tasks()), len(nats.connection.nc.sinks)
    for turns in range(0, 30, 2):
        watch = Watch(nats.connection, nats.api, "b", ">", keys_only=False)
        starting = asyncio.create_task(watch.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await watch.close()

    async def as_before() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    await until(as_before)
    assert len(nats.connection.nc.sinks) == subscriptions


async def test_keys_are_listed_though_the_connection_is_cut_meanwhile(nats_url: str, bucket):
    for number in range(200):
        await bucket.put(f"k{number}", b"")
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as behind:
        watched = await open_key_value(behind.connection, "b", timeout=30)
        proxy.delay(0.002)
        listing = asyncio.create_task(watched.keys())
        for _ in range(3):
            await asyncio.sleep(0.01)
            proxy.cut()
        try:
            assert len(await listing) == 200
        except BrokerUnavailable:
            assert len(await watched.keys()) == 200  # its very first request was lost
