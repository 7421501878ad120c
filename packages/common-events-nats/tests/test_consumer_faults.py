import asyncio
import time
from collections import Counter
from contextlib import suppress

import pytest
from nats_consuming import connected, eventually, leader_of, receive, settled, take, until

from common.events.core._errors import ConsumerLost, TransportClosed
from common.events.nats import NatsTimeout
from common.testing import FaultProxy, NatsCluster, NatsServer


@pytest.fixture
async def server():
    async with NatsServer(sync_interval="always") as server:
        yield server


class Worker:
    """Acknowledges what it gets, a little at a time, and notes it."""

    def __init__(self, consumer, pause: float = 0.001) -> None:
        self.seen: Counter[int] = Counter()
        self.consumer = consumer
        self.pause = pause
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while batch := await self.consumer.receive():
            for delivery in batch:
                self.seen[delivery.sequence] += 1
                await asyncio.sleep(self.pause)
                await delivery.ack()

    async def saw(self, count: int, seconds: float = 60.0) -> None:
        async def enough() -> bool:
            assert not self.task.done(), self.task.result()
            return len(self.seen) >= count

        await until(enough, seconds)

    async def end(self) -> None:
        await self.consumer.stop()
        await self.task


async def test_a_server_that_is_killed_and_comes_back_loses_nothing(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        await nats.publish_many(300)
        worker = Worker(await nats.consume(ack_wait=2.0, max_outstanding=16))
        for seen in (50, 150):
            await worker.saw(seen)
            server.kill()
            await asyncio.sleep(0.3)
            await server.restart()
        await worker.saw(300)
        assert sorted(worker.seen) == list(range(1, 301))
        await eventually(nats.info)
        await settled(nats)
        await worker.end()


async def test_while_the_server_is_away_next_to_no_cpu_is_used(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        worker = Worker(await nats.consume(max_deliver=3, ordered=True))
        await nats.publish_many(5)
        await worker.saw(5)
        server.kill()
        await asyncio.sleep(0.5)
        used, woken = time.process_time(), nats.consumers[0].pull.renewals
        await asyncio.sleep(3)
        assert time.process_time() - used < 1.2  # most of it reconnecting
        assert nats.consumers[0].pull.renewals - woken <= 1
        await server.restart()
        await nats.connection.wait_connected(60)
        await eventually(nats.info)
        await nats.publish_many(5, start=5)
        await worker.saw(10)
        await worker.end()


@pytest.mark.chaos
async def test_a_paused_server_is_waited_for(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        await nats.publish_many(200)
        worker = Worker(await nats.consume(max_outstanding=16))
        await worker.saw(50)
        server.pause()
        await asyncio.sleep(5.5)  # several heartbeats
        server.resume()
        await worker.saw(200)
        await settled(nats)
        # The connection was kept, or made anew: either way what was acknowledged stays so.
        assert sum(worker.seen.values()) <= 200 + 16
        await worker.end()


@pytest.mark.chaos
async def test_while_jetstream_is_paused_no_loop_is_busy(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        consumer = await nats.consume()
        server.pause()
        used = time.process_time()
        await asyncio.sleep(6)
        assert time.process_time() - used < 2
        assert consumer.pull.renewals <= 2
        server.resume()
        await nats.connection.wait_connected(60)
        await eventually(nats.info)
        await nats.publish("s.a")
        await take(consumer, 1)


async def test_cut_connections_lose_nothing_and_keep_acknowledgements(server: NatsServer):
    async with FaultProxy(server.url) as proxy, connected(server.url) as publisher:
        await publisher.stream()
        await publisher.publish_many(400)
        async with connected(proxy.url(server.url)) as nats:
            worker = Worker(await nats.consume(ack_wait=3.0, max_outstanding=8))
            for seen in (40, 90, 150, 250):
                await worker.saw(seen)
                proxy.cut()
            await worker.saw(400, 60)
            await settled(publisher)
            assert sorted(worker.seen) == list(range(1, 401))
            # Twice come those on their way when a connection was cut, and on a busy machine some
            # that waited for too long: not those which were acknowledged.
            assert sum(worker.seen.values()) <= 400 + 4 * 8 + 40
            await worker.end()


async def test_what_was_settled_without_a_connection_is_sent_once_there_is_one(
    server: NatsServer,
):
    async with FaultProxy(server.url) as proxy, connected(server.url) as publisher:
        await publisher.stream()
        await publisher.publish_many(4)
        async with connected(proxy.url(server.url)) as nats:
            consumer = await nats.consume()
            first, second, third, fourth = await receive(consumer, 4)
            await first.ack()
            proxy.refuse()
            proxy.cut()

            async def down() -> bool:
                return not nats.connection.connected

            await until(down)
            await second.ack()
            await third.term("no")
            await fourth.nak()
            proxy.heal()
            [again] = await receive(consumer, 1)
            assert (again.sequence, again.attempt) == (4, 2)
            await again.ack()
            await settled(publisher)


@pytest.mark.chaos
async def test_a_network_that_swallows_everything_is_noticed(server: NatsServer):
    async with FaultProxy(server.url) as proxy, connected(server.url) as publisher:
        await publisher.stream()
        async with connected(proxy.url(server.url), ping_interval_seconds=1.0) as nats:
            consumer = await nats.consume(ack_wait=3.0)
            await publisher.publish("s.a")
            await take(consumer, 1)
            proxy.drop()
            await asyncio.sleep(3)
            await publisher.publish("s.b")
            proxy.heal()
            assert (await take(consumer, 1))[0].sequence == 2


async def test_stop_does_not_hang_without_a_server(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        await nats.publish_many(5)
        consumer = await nats.consume(max_deliver=3)
        held = await receive(consumer, 5)
        server.kill()
        async with asyncio.timeout(60):
            await held[0].ack()
            await held[1].nak(1)
            await consumer.stop()
            assert list(await consumer.receive()) == []
            await consumer.close()
        assert all(delivery.settled for delivery in held)


async def test_a_stream_deleted_while_the_server_was_away_ends_the_consumer(server: NatsServer):
    async with FaultProxy(server.url) as proxy, connected(server.url) as operator:
        await operator.stream()
        async with connected(proxy.url(server.url)) as nats:
            consumer = await nats.consume()
            proxy.refuse()
            proxy.cut()
            await operator.api.request("STREAM.DELETE.S")
            proxy.heal()
            with pytest.raises(ConsumerLost):
                async with asyncio.timeout(60):
                    await consumer.receive()


async def test_a_closed_connection_ends_its_consumers(server: NatsServer):
    async with connected(server.url) as nats:
        await nats.stream()
        consumer = await nats.consume()
        waiting = asyncio.create_task(consumer.receive())
        await asyncio.sleep(0.05)
        await nats.connection.close()
        async with asyncio.timeout(60):
            with pytest.raises(TransportClosed):
                await waiting
            await consumer.close()
            assert list(await consumer.receive()) == []


@pytest.mark.chaos
async def test_a_consumer_deleted_again_and_again_is_not_made_in_a_busy_loop(server: NatsServer):
    async with connected(server.url) as nats, connected(server.url) as operator:
        await operator.stream()
        consumer = await nats.consume()
        end = time.monotonic() + 4
        deleted = 0
        while time.monotonic() < end:
            try:
                await operator.api.request("CONSUMER.DELETE.S.d")
                deleted += 1
            except Exception:
                pass
            await asyncio.sleep(0.005)
        assert consumer.pull.renewals < 40
        await operator.publish("s.a")
        await take(consumer, 1)


@pytest.mark.chaos
async def test_a_cluster_that_loses_the_consumers_leader_goes_on():
    async with NatsCluster(3, sync_interval="always") as cluster, connected(cluster.urls) as nats:
        await nats.stream(num_replicas=3)
        await nats.publish_many(200)
        worker = Worker(await nats.consume(ack_wait=4.0, max_outstanding=16), 0.005)
        await worker.saw(40)
        victim = await leader_of(nats, cluster)
        victim.kill()
        await worker.saw(200, 60)
        assert sorted(worker.seen) == list(range(1, 201))
        await settled(nats)
        await worker.end()


@pytest.mark.chaos
async def test_a_leader_that_steps_down_is_no_fault():
    async with NatsCluster(3) as cluster, connected(cluster.urls) as nats:
        await nats.stream(num_replicas=3)
        worker = Worker(await nats.consume(max_outstanding=16), 0.005)
        await nats.publish_many(200)
        for seen in (30, 90):
            await worker.saw(seen)
            with suppress(NatsTimeout):  # the leader that goes may take its answer along
                await nats.api.request("CONSUMER.LEADER.STEPDOWN.S.d")
        await worker.saw(200)
        assert sorted(worker.seen) == list(range(1, 201))
        await worker.end()


async def test_stopping_in_a_cluster_hands_back_without_waiting_for_ack_wait():
    async with NatsCluster(3) as cluster, connected(cluster.urls) as nats:
        await nats.stream(num_replicas=3)
        await nats.publish_many(300)
        await (await nats.consume(ack_wait=90.0)).close()
        leader = await leader_of(nats, cluster)
        others = [server.url for server in cluster.servers if server is not leader]
        found: list[int] = []
        started = time.monotonic()
        for turn in range(20):
            async with connected(others[turn % 2]) as visitor:
                consumer = await visitor.consume(max_outstanding=64, ack_wait=90.0)
                for delivery in (await consumer.receive())[:12]:
                    found.append(delivery.sequence)
                    await delivery.ack()
        last = await nats.consume(max_outstanding=100, ack_wait=90.0)
        while len(set(found)) < 300:
            found += [delivery.sequence for delivery in await take(last, 1)]
        assert time.monotonic() - started < 80
        assert sorted(set(found)) == list(range(1, 301))
